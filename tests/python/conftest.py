"""Where the tests find the package, its library and checkpoints: an installed wheel, or this tree and its build."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

if not os.environ.get("MOE4_TEST_INSTALLED"):
    sys.path.insert(0, str(ROOT / "python"))
    os.environ["PYTHONPATH"] = str(ROOT / "python")  # of programs that tests start
    os.environ.setdefault("MOE4_LIBRARY", str(ROOT / "build/release/src/capi/libmoe4.so"))


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The embedded checkpoint."""
    return ROOT / "models/tiny-qwen3_5-moe-nvfp4"


@pytest.fixture(scope="session")
def llm(checkpoint):
    import moe4

    return moe4.LLM(checkpoint, max_model_len=512, max_num_seqs=8)
