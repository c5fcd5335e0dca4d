"""vLLM's own layers on a CPU, for which its CUDA wheel will do.

They load every NVFP4 dialect with vLLM's loaders and call moe4 from vLLM's runner; float64 judges. A vLLM that the
plug-in would leave alone fails here.
"""

import os

import pytest

os.environ["VLLM_TARGET_DEVICE"] = "cpu"  # before vLLM is imported
os.environ["VLLM_PLUGINS"] = ""
torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

import vllm.platforms  # noqa: E402

if not vllm.platforms.current_platform.is_cpu():  # up to 0.28 the variable counts for CPU builds alone
    from vllm.platforms.cpu import CpuPlatform

    vllm.platforms._current_platform = CpuPlatform()

import moe4  # noqa: E402
import moe4.vllm  # noqa: E402
from random_experts import EXPERTS, HIDDEN, TOKENS, TOP_K, WIDTH, RandomExperts  # noqa: E402
from vllm.config import VllmConfig, set_current_vllm_config  # noqa: E402
from vllm.distributed import parallel_state  # noqa: E402
from vllm.forward_context import set_forward_context  # noqa: E402
from vllm.model_executor.layers.fused_moe import config as moe_config  # noqa: E402
from vllm.model_executor.layers.fused_moe import layer as moe_layer  # noqa: E402
from vllm.model_executor.layers.quantization import get_quantization_config  # noqa: E402
from vllm.v1.worker import workspace  # noqa: E402

PREFIX = "model.layers.0.mlp.experts"


def modelopt(algo):
    return {"quant_method": "modelopt", "quant_algo": algo, "ignore": ["lm_head"], "config_groups": {}}


def compressed(activations):
    four_bits = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
    group = {
        "targets": ["Linear"],
        "format": "nvfp4-pack-quantized",
        "weights": {**four_bits, "dynamic": False},
        "input_activations": {**four_bits, "dynamic": "local"} if activations else None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def mixed(algo):
    layers = {PREFIX: {"quant_algo": algo, "group_size": 16}, "model.layers.1.mlp.experts": {"quant_algo": "FP8"}}
    return {**modelopt("MIXED_PRECISION"), "quantized_layers": layers}


# vLLM's name of a dialect, its quantization_config, whether checkpoints have scales of the activations.
DIALECTS = {
    "modelopt": ("modelopt_fp4", modelopt("NVFP4"), True),
    "modelopt-w4a16": ("modelopt_fp4", modelopt("W4A16_NVFP4"), False),
    "modelopt-mixed": ("modelopt_mixed", mixed("NVFP4"), True),
    "modelopt-mixed-w4a16": ("modelopt_mixed", mixed("W4A16_NVFP4"), False),
    "compressed-tensors": ("compressed-tensors", compressed(True), True),
    "compressed-tensors-w4a16": ("compressed-tensors", compressed(False), False),
}


class Checkpoint(RandomExperts):
    """Random linears of all experts in the files of a dialect."""

    def tensors(self, dialect):
        """Names and tensors below the experts' module."""
        name, _, activations = DIALECTS[dialect]
        for module, tensor in self.modelopt(activations):
            if name == "compressed-tensors":
                yield compressed_tensors_name(module), 1 / tensor.view(1) if tensor.ndim == 0 else tensor
            else:
                yield module, tensor


def compressed_tensors_name(name):
    """Its global scales, whose reciprocals it has, and its codes are called otherwise than ModelOpt's."""
    module, _, suffix = name.rpartition(".")
    theirs = {"weight": "weight_packed", "weight_scale_2": "weight_global_scale", "input_scale": "input_global_scale"}
    return f"{module}.{theirs.get(suffix, suffix)}"


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory):
    """What vLLM's worker sets up before it makes layers."""
    moe4.vllm.register()
    store = tmp_path_factory.mktemp("process") / "store"
    with set_current_vllm_config(VllmConfig()):
        parallel_state.init_distributed_environment(1, 0, f"file://{store}", 0, "gloo")
        parallel_state.initialize_model_parallel(1, 1)
    workspace.init_workspace_manager(torch.device("cpu"))  # up to 0.28 kernels ask for it on a CPU too


@pytest.fixture(autouse=True)
def vllm_config():
    """vLLM's settings without a model, in force during a test."""
    config = VllmConfig()
    with set_current_vllm_config(config), torch.no_grad():
        yield config


def runner(dialect, **options):
    """A layer as vLLM's models make it, empty."""
    name, config, _ = DIALECTS[dialect]
    make = getattr(moe_layer, "FusedMoEFactory", None) or moe_layer.FusedMoE  # renamed in 0.29
    arguments = {
        "num_experts": EXPERTS,
        "top_k": TOP_K,
        "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "params_dtype": torch.bfloat16,
        "quant_config": get_quantization_config(name).from_config(config),
        "tp_size": 1,
        "dp_size": 1,
        "pcp_size": 1,
        "prefix": PREFIX,
    }
    return make(**{**arguments, **options})


def load(layer, checkpoint, dialect):
    """The routed experts of a layer with the checkpoint's tensors in them, packed."""
    experts = layer.routed_experts
    loaded = set(experts.load_weights(checkpoint.tensors(dialect)))
    assert any("weight_scale" in name for name in loaded)
    experts.quant_method.process_weights_after_loading(experts)
    return experts


def error(y, expected):
    return ((y.double() - expected).norm() / expected.norm()).item()


TOLERANCE = 4e-3  # hidden states between the linears and the output are rounded to BF16, 2^-9 each


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_loads_and_computes_what_float64_does(dialect):
    checkpoint = Checkpoint()
    experts = load(runner(dialect), checkpoint, dialect)
    assert "Moe4" in type(experts.quant_method).__name__
    y = experts.forward_modular(checkpoint.x, checkpoint.weights, checkpoint.ids)
    assert y.dtype == torch.bfloat16
    assert error(y, checkpoint.expected()) < TOLERANCE
    again = experts.forward_modular(checkpoint.x[3:5], checkpoint.weights[3:5], checkpoint.ids[3:5].long())
    assert torch.equal(again, y[3:5])
    held = sum(tensor.numel() for tensor in experts.parameters())
    assert held == 0, "raw tensors stayed"
    assert experts.w13_weight.shape[0] == EXPERTS


@pytest.mark.parametrize("parallel", ["tensor", "expert"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_two_ranks_add_up(dialect, parallel, vllm_config, monkeypatch):
    checkpoint = Checkpoint()
    vllm_config.parallel_config.enable_expert_parallel = parallel == "expert"
    total = 0
    for rank in range(2):
        monkeypatch.setattr(moe_config, "get_tensor_model_parallel_rank", lambda rank=rank: rank)
        experts = load(runner(dialect, tp_size=2, prefix=PREFIX), checkpoint, dialect)
        vllm_config.compilation_config.static_forward_context.clear()  # names are of one process
        here = experts.quant_method.moe_kernel.fused_experts.experts
        if parallel == "tensor":
            assert (here.intermediate_size, here.num_local_experts) == (WIDTH // 2, EXPERTS)
        else:
            assert (here.intermediate_size, here.num_local_experts) == (WIDTH, EXPERTS // 2)
        total = total + experts.forward_modular(checkpoint.x, checkpoint.weights, checkpoint.ids).double()
    assert error(total, checkpoint.expected()) < TOLERANCE


def test_vllms_runner_routes_to_it(vllm_config):
    checkpoint = Checkpoint()

    def route(hidden_states, gating_output, topk, renormalize):
        return checkpoint.weights, checkpoint.ids

    layer = runner("modelopt", custom_routing_function=route)
    load(layer, checkpoint, "modelopt")
    with set_forward_context(None, vllm_config):
        y = layer(checkpoint.x, torch.zeros(TOKENS, EXPERTS, dtype=torch.bfloat16))
    assert error(y, checkpoint.expected()) < TOLERANCE


def test_experts_without_gates(monkeypatch):
    checkpoint = Checkpoint(projections=("up_proj", "down_proj"))
    no_gate = None if hasattr(moe_layer, "FusedMoEFactory") else ""
    cpu = type(vllm.platforms.current_platform)
    if hasattr(moe_config, "current_platform"):  # 0.26 refuses these on a CPU, where it has no kernels for them
        monkeypatch.setattr(moe_config, "current_platform", type("Other", (cpu,), {"is_xpu": lambda self: True})())
    layer = runner("modelopt", activation="relu2_no_mul", ckpt_names=("up_proj", "down_proj", no_gate))
    experts = load(layer, checkpoint, "modelopt")
    y = experts.forward_modular(checkpoint.x, checkpoint.weights, checkpoint.ids)
    assert error(y, checkpoint.expected()) < TOLERANCE


def test_weights_on_the_input():
    checkpoint = Checkpoint()
    checkpoint.ids, checkpoint.weights = checkpoint.ids[:, :1].contiguous(), checkpoint.weights[:, :1].contiguous()
    layer = runner("compressed-tensors", top_k=1, apply_router_weight_on_input=True)
    experts = load(layer, checkpoint, "compressed-tensors")
    y = experts.forward_modular(checkpoint.x, checkpoint.weights, checkpoint.ids)
    assert error(y, checkpoint.expected(weights_on_input=True)) < 2 * TOLERANCE  # rounds the scaled input, too


def test_float16_hidden_states():
    checkpoint = Checkpoint()
    experts = load(runner("modelopt", params_dtype=torch.float16), checkpoint, "modelopt")
    y = experts.forward_modular(checkpoint.x.half(), checkpoint.weights, checkpoint.ids)
    assert y.dtype == torch.float16
    assert error(y, checkpoint.expected()) < TOLERANCE / 4


@pytest.mark.parametrize("dialect", ["modelopt", "modelopt-mixed", "compressed-tensors"])
def test_vllms_own_class_gets_what_moe4_leaves(dialect, vllm_config):
    """On a CPU that class has no backend and says so, which shows that it was asked."""
    vllm_config.additional_config = {"moe4": {"enabled": False}}
    with pytest.raises((NotImplementedError, ValueError), match="(?i)nvfp4"):
        runner(dialect)


@pytest.fixture
def left(monkeypatch):
    """What the plug-in says of layers that it leaves to vLLM: their names and why."""
    from moe4.vllm import configs

    lines = []
    monkeypatch.setattr(configs.logger, "info_once", lambda text, *words: lines.append(text % words))
    return lines


def leaves(left, dialect, **layer):
    """Why a layer is left to vLLM, whose own class refuses CPUs: that shows that it was asked."""
    with pytest.raises((NotImplementedError, ValueError), match="(?i)nvfp4") as caught:
        runner(dialect, **layer)
    assert not isinstance(caught.value, moe4.Moe4Error), caught.value
    (line,) = left
    begin = f"moe4 leaves {PREFIX} to vLLM: "
    assert line.startswith(begin), line
    return line.removeprefix(begin)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_sizes_that_no_layer_has_are_left_to_vllm(dialect, left):
    assert "hidden_size is 120, expected multiples of 16" in leaves(left, dialect, hidden_size=120)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ({"intermediate_size": 48, "tp_size": 2}, "intermediate_size is 24"),
        ({"hidden_size": 1 << 21}, "hidden_size is 2097152"),
        ({"top_k": EXPERTS + 1}, f"top_k is {EXPERTS + 1}"),
    ],
)
def test_other_rejections_are_left_to_vllm_with_their_reasons(layer, says, left):
    assert says in leaves(left, "modelopt", **layer)


def test_a_backend_that_cannot_is_left_to_vllm(left, vllm_config):
    vllm_config.additional_config = {"moe4": {"backend": "b12x"}}
    assert "b12x" in leaves(left, "compressed-tensors")


@pytest.mark.parametrize("error", [moe4.UnavailableError, moe4.BadInputError, moe4.Moe4Error])
def test_whatever_the_query_raises_is_left_to_vllm(error, left, monkeypatch):
    """As on a GPU that the library was not built for."""
    query = moe4.query

    def refuse(**layer):
        if layer["hidden_size"] == HIDDEN and layer["num_experts"] == EXPERTS:
            raise error("not built for this GPU")
        return query(**layer)

    monkeypatch.setattr(moe4, "query", refuse)
    assert leaves(left, "modelopt") == "not built for this GPU"


@pytest.mark.parametrize(
    "option", [{"backnd": "cpu"}, {"backend": "marlni"}, {"activations": "fp5"}, {"backend": ["cpu", "marlin"]}]
)
def test_a_wrong_option_is_named(option, vllm_config):
    vllm_config.additional_config = {"moe4": option}
    (name,), (value,) = option.keys(), option.values()
    with pytest.raises(moe4.UsageError, match=name if name == "backnd" else value if isinstance(value, str) else "name"):
        runner("modelopt")


def test_vllm_still_is_what_the_plug_in_fits():
    from moe4.vllm import configs, methods

    methods.check_vllm()
    assert get_quantization_config("modelopt_fp4") is configs.Moe4ModelOptNvFp4Config
    assert get_quantization_config("modelopt_mixed") is configs.Moe4ModelOptMixedPrecisionConfig
    assert get_quantization_config("compressed-tensors") is configs.Moe4CompressedTensorsConfig


def test_a_vllm_that_calls_otherwise_is_left_alone(monkeypatch):
    from moe4.vllm import configs, methods

    def apply(self, output, hidden_states, something_new):
        pass

    registered = []
    monkeypatch.setattr(configs, "register_quantization_config", registered.append)
    monkeypatch.setattr(methods.mk.FusedMoEExpertsModular, "apply", apply)
    monkeypatch.setattr(moe4.vllm, "_registered", False)
    with pytest.warns(UserWarning, match="moe4 leaves this vLLM alone: TypeError: apply .*something_new"):
        moe4.vllm.register()
    moe4.vllm.register()  # once
    assert registered == []


def test_a_layer_that_says_less_is_left_to_vllm(monkeypatch):
    from moe4.vllm import configs

    class Moe:
        moe_parallel_config = None

    leaves = []
    monkeypatch.setattr(configs.logger, "info_once", lambda *words: leaves.append(words))
    assert not configs._takes(Moe(), use_a16=False, name=PREFIX)
    assert leaves[0][1] == PREFIX
    assert "this vLLM is not as moe4 knows it: AttributeError" in leaves[0][2]


@pytest.mark.parametrize("backend", ["passthrough", "moonep", "deepep_low_latency"])
def test_experts_that_move_tokens_themselves_stay_vllms(backend, vllm_config):
    from moe4.vllm import methods

    experts = load(runner("modelopt"), Checkpoint(), "modelopt")
    parallel = experts.moe_config.moe_parallel_config
    assert methods.why_not(experts.moe_config, use_a16=False) is None
    parallel.use_ep, parallel.ep_size, parallel.dp_size, parallel.all2all_backend = True, 2, 2, backend
    assert backend in methods.why_not(experts.moe_config, use_a16=False)


def test_projections_of_several_schemes_are_vllms_to_refuse():
    name, config, _ = DIALECTS["compressed-tensors"]
    two = compressed(True)["config_groups"]["group_0"]
    groups = {
        "group_0": {**two, "targets": ["re:.*(gate|up)_proj"], "input_activations": None},
        "group_1": {**two, "targets": ["re:.*down_proj"]},
    }
    quant_config = get_quantization_config(name).from_config({**config, "config_groups": groups})
    with pytest.raises(ValueError, match="same quantization scheme"):
        runner("compressed-tensors", quant_config=quant_config)
