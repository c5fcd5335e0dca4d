"""Runs NVFP4 mixture-of-experts checkpoints as their publishers ship them, and says what it chose and why.

    import moe4
    llm = moe4.LLM("FOLDER")
    print(llm.generate("Hello", moe4.SamplingParams(max_tokens=32))[0].outputs[0].text)

``Experts`` is one layer for engines that have a model of their own; ``moe4.torch`` has it as PyTorch operators. Nothing
here imports PyTorch or NumPy: their tensors are taken as they come.
"""

from moe4._errors import BadInputError, Moe4Error, UnavailableError, UsageError
from moe4._experts import Experts, query
from moe4._library import gpu_architectures, set_num_threads, version
from moe4._llm import LLM, CompletionOutput, RequestOutput, SamplingParams, generate, load, stream_generate
from moe4._reports import evaluate, inspect, plan
from moe4._tokenizer import Tokenizer

__version__ = version()

__all__ = [
    "LLM",
    "BadInputError",
    "CompletionOutput",
    "Experts",
    "Moe4Error",
    "RequestOutput",
    "SamplingParams",
    "Tokenizer",
    "UnavailableError",
    "UsageError",
    "__version__",
    "evaluate",
    "generate",
    "gpu_architectures",
    "inspect",
    "load",
    "plan",
    "query",
    "set_num_threads",
    "stream_generate",
]
