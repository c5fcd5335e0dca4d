"""What can be said of a checkpoint without generating: plan, inspect, evaluate."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Sequence
from typing import Any

from moe4._library import check, library, take_text
from moe4._llm import LLM, checkpoint_path, model_options


def plan(
    model: str | os.PathLike[str],
    device: str = "cpu",
    *,
    backend: str = "auto",
    activations: str = "auto",
    fp8_activations: bool = False,
    batch_invariant: bool = False,
) -> dict[str, Any]:
    """Which backend would serve each layer, and why the others do not, as ``moe4 plan --json`` says it.

    Reads headers only, and ``device`` may be one that is not here: ``"sm_90"``. A layer that nobody takes has no
    backend and an error.
    """
    options = model_options(
        device=device,
        backend=backend,
        activations=activations,
        fp8_activations=fp8_activations,
        batch_invariant=batch_invariant,
    )
    text = ctypes.c_void_p()
    check(library().moe4_plan(checkpoint_path(model), ctypes.byref(options), ctypes.byref(text)))
    return json.loads(take_text(text))


def inspect(model: str | os.PathLike[str], *, lint: bool = False) -> dict[str, Any]:
    """Layers, formats, parameters and bytes per token, as ``moe4 inspect --json`` says it.

    ``lint`` reads all scales and reports what looks wrong among ``findings``.
    """
    text = ctypes.c_void_p()
    check(library().moe4_inspect(checkpoint_path(model), int(lint), ctypes.byref(text)))
    return json.loads(take_text(text))


def evaluate(model: LLM | str | os.PathLike[str], tokens: Sequence[Sequence[int]], **options: Any) -> dict[str, Any]:
    """Perplexity of rows of token ids, each by itself: perplexity, mean_log_likelihood, predictions, seconds.

    ``options`` are those of :class:`LLM`, where ``model`` is a checkpoint and not loaded yet.
    """
    llm = model if isinstance(model, LLM) else LLM(model, **options)
    return llm.evaluate(tokens)
