"""libmoe4.so through ctypes: its structures and functions as include/moe4/moe4.h has them."""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path

from moe4._errors import error_of

ABI = 1


class StackedLinear(Structure):
    """moe4_stacked_linear"""

    _fields_ = [
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("global_scales", c_void_p),
        ("input_scales", c_void_p),
        ("bias", c_void_p),
        ("codes_stride", c_int64),
        ("scales_stride", c_int64),
        ("global_scales_stride", c_int64),
        ("input_scales_stride", c_int64),
        ("bias_stride", c_int64),
    ]


class LayerDesc(Structure):
    """moe4_layer_desc"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("hidden_size", c_int64),
        ("intermediate_size", c_int64),
        ("num_experts", c_int64),
        ("num_local_experts", c_int64),
        ("top_k", c_int64),
        ("activation", c_int),
        ("alpha", c_float),
        ("beta", c_float),
        ("limit", c_float),
        ("weight_on_input", c_int),
        ("gate", c_void_p),
        ("up", c_void_p),
        ("down", c_void_p),
        ("stacked_gate", POINTER(StackedLinear)),
        ("stacked_up", POINTER(StackedLinear)),
        ("stacked_down", POINTER(StackedLinear)),
        ("reciprocal_scales", c_int),
        ("expert_map", c_void_p),
        ("expert_map_per_call", c_int),
        ("tp_size", c_int),
        ("tp_rank", c_int),
        ("device", c_int),
        ("weights_on_device", c_int),
        ("backend", c_char_p),
        ("activations", c_char_p),
        ("batch_invariant", c_int),
    ]


class ApplyArgs(Structure):
    """moe4_apply_args"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("num_tokens", c_int64),
        ("hidden_states", c_void_p),
        ("topk_ids", c_void_p),
        ("topk_weights", c_void_p),
        ("output", c_void_p),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
        ("stream", c_void_p),
        ("hidden_dtype", c_int),
        ("ids_are_int64", c_int),
        ("expert_map", c_void_p),
    ]


class Candidate(Structure):
    """moe4_candidate"""

    _fields_ = [("backend", c_char_p), ("kind", c_char_p), ("reason", c_char_p)]


Progress = ctypes.CFUNCTYPE(None, c_void_p, c_int64, c_int64)
OnText = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64, c_void_p, c_size_t)


class ModelOptions(Structure):
    """moe4_model_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("device", c_char_p),
        ("dtype", c_char_p),
        ("backend", c_char_p),
        ("activations", c_char_p),
        ("fp8_activations", c_int),
        ("batch_invariant", c_int),
        ("no_prefix_caching", c_int),
        ("num_threads", c_int),
        ("cpu_moe", c_int64),
        ("max_model_len", c_int64),
        ("max_num_seqs", c_int64),
        ("max_num_batched_tokens", c_int64),
        ("kv_cache_memory_bytes", c_int64),
        ("memory_utilization", c_double),
        ("progress", Progress),
        ("user", c_void_p),
    ]


# Result and arguments; a result of c_int is a moe4_status unless the name is in _PLAIN.
_FUNCTIONS = {
    "moe4_version": (c_char_p, []),
    "moe4_abi": (c_int, []),
    "moe4_gpu_architectures": (c_char_p, []),
    "moe4_set_num_threads": (c_int, [c_int]),
    "moe4_layer_query": (c_int, [POINTER(LayerDesc), POINTER(c_void_p)]),
    "moe4_selection_backend": (c_char_p, [c_void_p]),
    "moe4_selection_reason": (c_char_p, [c_void_p]),
    "moe4_selection_candidate": (POINTER(Candidate), [c_void_p, c_int]),
    "moe4_selection_destroy": (None, [c_void_p]),
    "moe4_layer_create": (c_int, [POINTER(LayerDesc), POINTER(c_void_p)]),
    "moe4_layer_workspace_size": (c_size_t, [c_void_p, c_int64, c_int]),
    "moe4_layer_apply": (c_int, [c_void_p, POINTER(ApplyArgs)]),
    "moe4_layer_backend": (c_char_p, [c_void_p]),
    "moe4_layer_batch_invariance": (c_int, [c_void_p]),
    "moe4_layer_weight_bytes": (c_int64, [c_void_p]),
    "moe4_layer_intermediate_size": (c_int64, [c_void_p]),
    "moe4_layer_destroy": (None, [c_void_p]),
    "moe4_model_load": (c_int, [c_char_p, POINTER(ModelOptions), POINTER(c_void_p)]),
    "moe4_model_info": (c_char_p, [c_void_p]),
    "moe4_model_destroy": (None, [c_void_p]),
    "moe4_model_encode": (c_int, [c_void_p, c_char_p, c_size_t, POINTER(POINTER(c_int32)), POINTER(c_int64)]),
    "moe4_model_decode": (c_int, [c_void_p, POINTER(c_int32), c_int64, c_int, POINTER(c_void_p)]),
    "moe4_model_chat_prompt": (c_int, [c_void_p, c_char_p, POINTER(c_void_p)]),
    "moe4_generation_begin": (c_int, [c_void_p, c_char_p, POINTER(c_void_p)]),
    "moe4_generation_step": (c_int, [c_void_p, OnText, c_void_p, POINTER(c_int)]),
    "moe4_generation_results": (c_int, [c_void_p, POINTER(c_void_p)]),
    "moe4_generation_destroy": (None, [c_void_p]),
    "moe4_model_evaluate": (c_int, [c_void_p, POINTER(c_int32), POINTER(c_int64), c_int64, POINTER(c_void_p)]),
    "moe4_plan": (c_int, [c_char_p, POINTER(ModelOptions), POINTER(c_void_p)]),
    "moe4_inspect": (c_int, [c_char_p, c_int, POINTER(c_void_p)]),
    "moe4_main": (c_int, [c_int, POINTER(c_char_p)]),
    "moe4_free": (None, [c_void_p]),
    "moe4_last_error": (c_char_p, []),
}


@functools.cache
def library() -> ctypes.CDLL:
    """The library beside this file, or the one that MOE4_LIBRARY names; loaded once."""
    path = os.environ.get("MOE4_LIBRARY") or str(Path(__file__).with_name("libmoe4.so"))
    lib = ctypes.CDLL(path)
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    if lib.moe4_abi() != ABI:
        raise ImportError(f"{path} has ABI {lib.moe4_abi()} and this package needs {ABI}: install moe4 again")
    return lib


def check(status: int) -> None:
    """Raises what a moe4_status other than MOE4_OK stands for."""
    if status != 0:
        raise error_of(status, (library().moe4_last_error() or b"").decode(errors="replace"))


def take_text(pointer: c_void_p) -> str:
    """A char** result as a string; frees it."""
    try:
        return ctypes.string_at(pointer.value or 0).decode(errors="replace")
    finally:
        library().moe4_free(pointer)


def encoded(text: str | None) -> bytes | None:
    """A string as the library takes it; None stays None."""
    return None if text is None else text.encode()


def version() -> str:
    """Version of the library."""
    return library().moe4_version().decode()


def gpu_architectures() -> list[str]:
    """GPU architectures that the library holds code for; empty without CUDA."""
    return [name for name in library().moe4_gpu_architectures().decode().split(";") if name]


def set_num_threads(num_threads: int) -> None:
    """Host threads that all ``Experts`` of this process share, 0 for one a core; before the first one is made."""
    check(library().moe4_set_num_threads(num_threads))
