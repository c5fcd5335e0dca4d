"""SGLang's own layers on a CPU, for which its CUDA wheel will do.

They load ModelOpt's NVFP4 with SGLang's loader and call moe4 from SGLang's dispatcher and runner; float64 judges. An
SGLang that the plug-in would leave alone fails here.
"""

import inspect
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")
torch = pytest.importorskip("torch")
pytest.importorskip("sglang")

import moe4  # noqa: E402
import moe4.sglang  # noqa: E402
from random_experts import EXPERTS, HIDDEN, TOKENS, TOP_K, WIDTH, RandomExperts  # noqa: E402
from sglang.srt import runtime_context  # noqa: E402
from sglang.srt.arg_groups import choices  # noqa: E402
from sglang.srt.layers import moe as sglang_moe  # noqa: E402
from sglang.srt.layers.moe.fused_moe_triton import FusedMoE  # noqa: E402
from sglang.srt.layers.moe.token_dispatcher import standard  # noqa: E402
from sglang.srt.layers.moe.topk import StandardTopKOutput  # noqa: E402
from sglang.srt.layers.moe.utils import (  # noqa: E402
    MoeRunnerBackend,
    get_moe_runner_backend,
    get_speculative_moe_runner_backend,
)
from sglang.srt.layers.quantization import modelopt_quant  # noqa: E402
from sglang.srt.plugins.hook_registry import HookRegistry  # noqa: E402
from sglang.srt.server_args import ServerArgs  # noqa: E402

PREFIX = "model.layers.0.mlp.experts"
TOLERANCE = 4e-3  # hidden states between the linears and the output are rounded to BF16, 2^-9 each
SGLANGS_OWN = "Current platform does not support NVFP4"  # of its method, on a CPU


def start(runner="moe4", rank=0, **options):
    """What a scheduler process of SGLang does before it makes layers."""
    args = ServerArgs(model_path="dummy", device="cpu", moe_runner_backend=runner, **options)
    runtime_context.reset_context()
    runtime_context.publish(args, role="scheduler", ranks=runtime_context.SpawnRanks(world_rank=rank))
    group = types.SimpleNamespace(rank_in_group=rank, world_size=options.get("tp_size", 1))
    runtime_context.get_parallel().override_permanently(tp_group=group, attn_tp_group=group)
    sglang_moe.initialize_moe_config()


@pytest.fixture(scope="module", autouse=True)
def plug_in():
    """As SGLang's load_plugins() does it."""
    moe4.sglang.register()
    HookRegistry.apply_hooks()


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield
    runtime_context.reset_context()


def layer_of(algo="NVFP4", config=None, **options):
    """A layer as SGLang's models make it, empty."""
    found = {"quant_method": "modelopt", "quant_algo": algo, "ignore": ["lm_head"], "group_size": 16}
    arguments = {
        "num_experts": EXPERTS,
        "top_k": TOP_K,
        "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "layer_id": 0,
        "params_dtype": torch.bfloat16,
        "quant_config": config or modelopt_quant.ModelOptFp4Config.from_config(found),
        "prefix": PREFIX,
    }
    return FusedMoE(**{**arguments, **options})


def load(layer, checkpoint, activations=True):
    """The layer with the checkpoint's tensors in it, packed."""
    parameters = dict(layer.named_parameters())
    mapping = FusedMoE.make_expert_params_mapping("gate_proj", "down_proj", "up_proj", EXPERTS)
    for name, tensor in checkpoint.modelopt(activations):
        name = f"experts.{name}"
        for ours, theirs, expert, shard in mapping:
            if theirs in name:
                parameter = parameters[name.replace(theirs, ours).removeprefix("experts.")]
                parameter.weight_loader(parameter, tensor, name, shard_id=shard, expert_id=expert)
    layer.quant_method.process_weights_after_loading(layer)
    return layer


def run(layer, checkpoint, rows=slice(None)):
    routes = StandardTopKOutput(checkpoint.weights[rows], checkpoint.ids[rows], torch.zeros(TOKENS, EXPERTS)[rows])
    return layer(checkpoint.x[rows], routes)


def error(y, expected):
    return ((y.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("runner", ["moe4", "moe4_bf16"])
@pytest.mark.parametrize("algo", ["NVFP4", "W4A16_NVFP4"])
def test_a_checkpoint_loads_and_computes_what_float64_does(algo, runner):
    start(runner)
    checkpoint = RandomExperts()
    layer = load(layer_of(algo), checkpoint, algo == "NVFP4")
    assert layer.quant_method.is_moe4 and layer.runner_backend.value == runner
    y = run(layer, checkpoint)
    assert y.dtype == torch.bfloat16
    assert error(y, checkpoint.expected()) < TOLERANCE
    assert torch.equal(run(layer, checkpoint, slice(3, 5)), y[3:5])
    held = sum(p.numel() for name, p in layer.named_parameters() if not name.endswith(("scale_2", "input_scale")))
    assert held == 0, "raw tensors stayed"
    assert layer.w13_weight.shape[0] == EXPERTS


@pytest.mark.parametrize("runner", ["moe4_fp4", "moe4_fp4_static"])
def test_activations_are_quantised_where_the_name_says_so(runner):
    start(runner)
    checkpoint = RandomExperts()
    difference = error(run(load(layer_of(), checkpoint), checkpoint), checkpoint.expected())
    assert difference > 10 * TOLERANCE  # no calibration: the scales of this checkpoint's inputs are random
    if runner == "moe4_fp4":
        assert difference < 0.2


def test_mixed_precision_checkpoints_ask_for_it_by_layer():
    start()
    found = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "ignore": []}
    found["quantized_layers"] = {PREFIX: {"quant_algo": "NVFP4", "group_size": 16}}
    checkpoint = RandomExperts()
    layer = load(layer_of(config=modelopt_quant.ModelOptMixedPrecisionConfig.from_config(found)), checkpoint)
    assert layer.quant_method.is_moe4
    assert error(run(layer, checkpoint), checkpoint.expected()) < TOLERANCE


@pytest.mark.parametrize("parallel", ["tensor", "expert"])
def test_two_ranks_add_up(parallel, monkeypatch):
    monkeypatch.setattr(standard, "get_device", lambda: "cpu")  # where the dispatcher keeps its map of experts
    checkpoint = RandomExperts()
    total = 0
    for rank in range(2):
        start(rank=rank, tp_size=2, ep_size=2 if parallel == "expert" else 1)
        layer = load(layer_of(), checkpoint)
        here = layer.quant_method.quant_info.experts
        cut = (WIDTH // 2, EXPERTS) if parallel == "tensor" else (WIDTH, EXPERTS // 2)
        assert (here.intermediate_size, here.num_local_experts) == cut
        total = total + run(layer, checkpoint).double()
    assert error(total, checkpoint.expected()) < TOLERANCE


def test_experts_without_gates():
    start()
    checkpoint = RandomExperts(projections=("up_proj", "down_proj"))
    layer = layer_of(activation="relu2", is_gated=False)
    parameters = dict(layer.named_parameters())
    for name, tensor in checkpoint.modelopt(True):
        expert, projection, suffix = name.split(".")
        which, shard = ("w2", "w2") if projection == "down_proj" else ("w13", "w1")
        parameter = parameters[f"{which}_{suffix}"]
        parameter.weight_loader(parameter, tensor, f"experts.{name}", shard_id=shard, expert_id=int(expert))
    layer.quant_method.process_weights_after_loading(layer)
    assert error(run(layer, checkpoint), checkpoint.expected()) < TOLERANCE


def test_weights_on_the_input():
    start()
    checkpoint = RandomExperts()
    checkpoint.ids, checkpoint.weights = checkpoint.ids[:, :1].contiguous(), checkpoint.weights[:, :1].contiguous()
    layer = load(layer_of(top_k=1, apply_router_weight_on_input=True), checkpoint)
    assert error(run(layer, checkpoint), checkpoint.expected(weights_on_input=True)) < 2 * TOLERANCE


def test_without_the_option_nothing_changes():
    start("auto")
    assert get_moe_runner_backend() is MoeRunnerBackend.AUTO
    with pytest.raises(ValueError, match=SGLANGS_OWN):
        layer_of()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"activation": "gelu"}, "does not compute gelu"),
        ({"gemm1_alpha": 1.702}, "alpha: 1.702"),
        ({"no_combine": True}, "outputs apart"),
        ({"with_bias": True}, "biases"),
        ({"hidden_size": 120}, "120"),
    ],
)
def test_what_moe4_does_not_take_is_left_to_sglang(option, says, caplog):
    """Whose method refuses CPUs, which shows that it was asked."""
    start()
    with pytest.raises((ValueError, AssertionError), match=SGLANGS_OWN):
        layer_of(**option)
    assert "moe4 leaves the routed experts to SGLang: layer 0: " in caplog.text and says in caplog.text
    assert get_moe_runner_backend() is MoeRunnerBackend.AUTO


def test_drafts_have_moe4_where_it_is_said():
    start()
    assert get_speculative_moe_runner_backend() is MoeRunnerBackend.AUTO
    start("auto", speculative_moe_runner_backend="moe4_bf16")
    assert get_moe_runner_backend() is MoeRunnerBackend.AUTO
    assert get_speculative_moe_runner_backend().value == "moe4_bf16"


def test_experts_of_another_format_are_named():
    from moe4.sglang.runner import Moe4RunnerCore

    class Fp8MoEMethod:
        pass

    class Config:
        layer_id = 3
        layer = type("Layer", (), {"quant_method": Fp8MoEMethod()})

    with pytest.raises(moe4.UnavailableError, match="layer 3 are Fp8MoEMethod's: leave the option out"):
        Moe4RunnerCore(Config())


def test_sglang_still_is_what_the_plug_in_fits():
    from moe4.sglang import hooks, methods

    methods.check_sglang()
    assert set(hooks.NAMES) <= set(choices.MOE_RUNNER_BACKEND_CHOICES)
    method = modelopt_quant.ModelOptNvFp4FusedMoEMethod
    assert inspect.signature(method.__init__).parameters.keys() == {"self", "quant_config"}


def test_an_sglang_that_calls_otherwise_is_left_alone(monkeypatch, caplog):
    from moe4.sglang import methods

    def run_from_dispatch(self, dispatch_output, something_new):
        pass

    monkeypatch.setattr(methods, "_installed", False)
    monkeypatch.setattr(methods.DispatchMoeRunnerCore, "run_from_dispatch", run_from_dispatch)
    start()
    assert get_moe_runner_backend() is MoeRunnerBackend.AUTO
    assert "this SGLang is not as moe4 knows it: TypeError: run_from_dispatch" in caplog.text
    assert "something_new" in caplog.text


def test_an_sglang_without_the_registry_is_left_alone(monkeypatch, caplog):
    monkeypatch.delattr(choices, "add_moe_runner_backend_choices")
    monkeypatch.delitem(sys.modules, "moe4.sglang.hooks")
    monkeypatch.delattr(moe4.sglang, "hooks")
    monkeypatch.setattr(moe4.sglang, "_registered", False)
    moe4.sglang.register()
    moe4.sglang.register()  # once
    assert caplog.text.count("moe4 leaves this SGLang alone: ImportError") == 1


def test_a_start_without_the_option_imports_no_layers():
    code = """
import sys
import moe4.sglang
from sglang.srt.plugins.hook_registry import HookRegistry
moe4.sglang.register()
HookRegistry.apply_hooks()
print([name for name in sys.modules if name.startswith(("sglang.srt.layers.", "moe4.sglang.m", "moe4.sglang.r"))])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.stdout.splitlines()[-1:] == ["[]"], result.stdout + result.stderr[-2000:]


def test_sglang_finds_the_entry_point_and_takes_the_name(tmp_path):
    """As an installed wheel has it."""
    project = tomllib.loads((Path(__file__).parents[2] / "python/pyproject.toml").read_text())
    info = tmp_path / "moe4-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moe4\nVersion: 0\n")
    entries = project["project"]["entry-points"]["sglang.srt.plugins"]
    lines = [f"{name} = {target}" for name, target in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[sglang.srt.plugins]", *lines]))
    code = """
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.server_args import prepare_server_args
args = prepare_server_args(["--model-path", "dummy", "--device", "cpu", "--moe-runner-backend", "moe4_bf16"])
print("TAKES", args.moe_runner_backend)
"""
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    for plugins, takes in (("", True), ("other", False)):
        env["SGLANG_PLUGINS"] = plugins
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=env)
        assert ("TAKES moe4_bf16" in result.stdout) == takes, result.stdout + result.stderr[-2000:]
        assert takes or "invalid choice: 'moe4_bf16'" in result.stderr
