"""One layer of routed experts, from the tensors that engines have."""

from __future__ import annotations

import contextlib
import ctypes
import math
import weakref
from typing import Any

from moe4._errors import UsageError
from moe4._library import ApplyArgs, LayerDesc, StackedLinear, check, encoded, library
from moe4._tensor import View, empty_like, scratch, view

_ACTIVATIONS = {"silu": 0, "swigluoai": 1, "gelu_tanh": 2, "relu2": 3}
_DTYPES = {"bfloat16": 0, "float16": 1, "float32": 2}
_CODES = ("uint8", "float4_e2m1fn_x2")
_SCALES = ("float8_e4m3fn", "uint8")
_BF16 = ("bfloat16", "uint16")
_INVARIANCE = ("no", "by phase", "yes")


class Experts:
    """A layer that is packed once and called step by step; made by :meth:`from_tensors`."""

    def __init__(self, desc: LayerDesc) -> None:
        handle = ctypes.c_void_p()
        check(library().moe4_layer_create(ctypes.byref(desc), ctypes.byref(handle)))
        self.handle = handle
        self._destroy = weakref.finalize(self, library().moe4_layer_destroy, handle)
        self.hidden_size: int = desc.hidden_size
        self.intermediate_size: int = library().moe4_layer_intermediate_size(handle)
        self.num_experts: int = desc.num_experts
        self.num_local_experts: int = desc.num_local_experts
        self.top_k: int = desc.top_k
        #: A CUDA ordinal, -1 for the CPU.
        self.device: int = desc.device
        #: Name of the backend that was chosen.
        self.backend: str = library().moe4_layer_backend(handle).decode()
        #: Bytes of packed weights.
        self.weight_bytes: int = library().moe4_layer_weight_bytes(handle)
        #: Whether a token's bits stay the same whatever shares its call: "no", "by phase" or "yes".
        self.batch_invariance: str = _INVARIANCE[library().moe4_layer_batch_invariance(handle)]
        self._map_per_call = bool(desc.expert_map_per_call)

    @classmethod
    def from_tensors(
        cls,
        w13: Any,
        w13_scale: Any,
        w13_scale_2: Any,
        w2: Any,
        w2_scale: Any,
        w2_scale_2: Any,
        *,
        top_k: int,
        num_experts: int,
        activation: str = "silu",
        alpha: float = 0.0,
        beta: float = 0.0,
        limit: float | None = None,
        expert_map: Any = None,
        expert_map_per_call: bool = False,
        activations: str = "bf16",
        backend: str = "auto",
        w13_input_scale: Any = None,
        w2_input_scale: Any = None,
        w13_bias: Any = None,
        w2_bias: Any = None,
        reciprocal_scales: bool = False,
        weight_on_input: bool = False,
        batch_invariant: bool = False,
    ) -> Experts:
        """A layer from NVFP4 tensors of the E experts that are here, on the CPU or all on one GPU.

        ``w13`` uint8 [E, 2 I, H / 2] holds gate rows, then up rows (I rows where ``activation`` is ``"relu2"``), two
        codes a byte, low one first; ``w2`` [E, H, I / 2]. Their block scales are float8_e4m3fn [E, rows, columns / 16],
        ``w13_scale_2`` float32 [E, 2] of gate and up apart, or [E] of both; ``w2_scale_2`` [E]. They multiply, unless
        ``reciprocal_scales``. ``w13_input_scale`` and ``w2_input_scale`` alike, for ``activations="fp4-static"``.
        Biases are bfloat16. Nothing of the tensors is needed afterwards.

        ``expert_map`` int32 [num_experts] has the index of an expert that is here, -1 of others; with
        ``expert_map_per_call`` every call brings it.
        """
        desc, keep = _describe(
            w13, w13_scale, w13_scale_2, w2, w2_scale, w2_scale_2,
            w13_input_scale, w2_input_scale, w13_bias, w2_bias, activation,
        )  # fmt: skip
        desc.num_experts = num_experts
        desc.top_k = top_k
        desc.alpha, desc.beta, desc.limit = alpha, beta, limit or 0.0
        desc.weight_on_input = weight_on_input
        desc.reciprocal_scales = reciprocal_scales
        desc.backend = encoded(backend)
        desc.activations = encoded(activations)
        desc.batch_invariant = batch_invariant
        desc.expert_map_per_call = expert_map_per_call
        if expert_map is not None:
            values = [int(index) for index in expert_map.tolist()]
            if len(values) != num_experts:
                raise UsageError(f"expert_map has {len(values)} entries, expected num_experts, {num_experts}")
            keep.append((ctypes.c_int32 * num_experts)(*values))
            desc.expert_map = ctypes.cast(keep[-1], ctypes.c_void_p)
        with _device(w13, desc.device):
            if desc.device >= 0:
                import torch

                torch.cuda.current_stream().synchronize()  # the library reads on a stream of its own
            return cls(desc)

    def workspace_size(self, num_tokens: int, dtype: str = "bfloat16") -> int:
        """Bytes that a call of up to so many tokens needs."""
        return library().moe4_layer_workspace_size(self.handle, num_tokens, _DTYPES[dtype])

    def __call__(
        self,
        x: Any,
        topk_weights: Any,
        topk_ids: Any,
        out: Any = None,
        *,
        expert_map: Any = None,
        workspace: Any = None,
    ) -> Any:
        """The layer's output for hidden states [T, H] in bfloat16, float16 or float32.

        ``topk_ids`` [T, top_k] is int32 or int64; -1 and ids of experts that are not here add nothing.
        ``topk_weights`` [T, top_k] is float32. ``out`` is written if given. ``workspace`` is a uint8 tensor to be used
        instead of a new one.
        """
        rows = view(x, "x", (None, self.hidden_size), tuple(_DTYPES))
        tokens = rows.shape[0]
        ids = view(topk_ids, "topk_ids", (tokens, self.top_k), ("int32", "int64"))
        weights = view(topk_weights, "topk_weights", (tokens, self.top_k), ("float32",))
        result = empty_like(x) if out is None else out
        y = view(result, "out", (tokens, self.hidden_size), (rows.dtype,))
        if y.pointer != _pointer(result):
            raise UsageError("out is not dense")
        views = [rows, ids, weights, y]
        args = ApplyArgs(
            struct_size=ctypes.sizeof(ApplyArgs),
            num_tokens=tokens,
            hidden_states=rows.pointer,
            topk_ids=ids.pointer,
            topk_weights=weights.pointer,
            output=y.pointer,
            hidden_dtype=_DTYPES[rows.dtype],
            ids_are_int64=ids.dtype == "int64",
        )
        if expert_map is not None:
            views.append(view(expert_map, "expert_map", (self.num_experts,), ("int32",)))
            args.expert_map = views[-1].pointer
        for each in views:
            if each.device != self.device:
                raise UsageError(f"a tensor is on device {each.device}, and the layer on {self.device} (-1: the CPU)")
        with _device(x, self.device):
            if workspace is None:
                size = self.workspace_size(tokens, rows.dtype) if tokens else 0
                args.workspace, keep = scratch(x, size)
                args.workspace_bytes = size
            else:
                keep = view(workspace, "workspace", (None,), ("uint8",))
                args.workspace, args.workspace_bytes = keep.pointer, keep.shape[0]
            if self.device >= 0:
                import torch

                args.stream = torch.cuda.current_stream().cuda_stream
            check(library().moe4_layer_apply(self.handle, ctypes.byref(args)))
        return result

    def close(self) -> None:
        """Frees the layer now rather than with its last reference."""
        self._destroy()
        self.handle = ctypes.c_void_p()


def query(
    *,
    hidden_size: int,
    intermediate_size: int,
    num_experts: int,
    top_k: int,
    num_local_experts: int | None = None,
    device: int = -1,
    activation: str = "silu",
    limit: float | None = None,
    activations: str = "bf16",
    backend: str = "auto",
    batch_invariant: bool = False,
) -> dict[str, Any]:
    """Who would take a layer here, without its weights.

    ``backend`` ("" for nobody), ``reason``, and ``candidates`` with each one's kind of objection and sentence (None: it
    could).
    """
    desc = LayerDesc(
        struct_size=ctypes.sizeof(LayerDesc),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_experts=num_experts,
        num_local_experts=num_experts if num_local_experts is None else num_local_experts,
        top_k=top_k,
        activation=_activation(activation),
        limit=limit or 0.0,
        device=device,
        activations=encoded(activations),
        backend=encoded(backend),
        batch_invariant=batch_invariant,
        expert_map_per_call=num_local_experts is not None and num_local_experts != num_experts,
    )
    lib = library()
    selection = ctypes.c_void_p()
    check(lib.moe4_layer_query(ctypes.byref(desc), ctypes.byref(selection)))
    try:
        candidates = []
        while found := lib.moe4_selection_candidate(selection, len(candidates)):
            one = found.contents
            candidates.append(
                {
                    "backend": one.backend.decode(),
                    "kind": one.kind and one.kind.decode(),
                    "reason": one.reason and one.reason.decode(),
                }
            )
        return {
            "backend": lib.moe4_selection_backend(selection).decode(),
            "reason": lib.moe4_selection_reason(selection).decode(),
            "candidates": candidates,
        }
    finally:
        lib.moe4_selection_destroy(selection)


def _activation(name: str) -> int:
    if name not in _ACTIVATIONS:
        raise UsageError(f"activation is {name!r}, expected one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _pointer(tensor: Any) -> int:
    return tensor.data_ptr() if hasattr(tensor, "data_ptr") else tensor.ctypes.data


def _device(tensor: Any, device: int) -> contextlib.AbstractContextManager[Any]:
    """The GPU of a layer made current."""
    if device < 0:
        return contextlib.nullcontext()
    import torch

    return torch.cuda.device(device)


def _describe(
    w13: Any, w13_scale: Any, w13_scale_2: Any, w2: Any, w2_scale: Any, w2_scale_2: Any,
    w13_input: Any, w2_input: Any, w13_bias: Any, w2_bias: Any, activation: str,
) -> tuple[LayerDesc, list[Any]]:  # fmt: skip
    """Sizes, device and linears of a description, and what must stay until the layer is made."""
    kind = _activation(activation)
    parts = 1 if activation == "relu2" else 2
    up = view(w13, "w13", (None, None, None), _CODES)
    experts, rows, hidden = up.shape[0], up.shape[1], 2 * up.shape[2]
    if rows % parts != 0:
        raise UsageError(f"w13 has {rows} rows, expected as many of gate as of up")
    width = rows // parts
    scales = view(w13_scale, "w13_scale", (experts, rows, hidden // 16), _SCALES)
    down = view(w2, "w2", (experts, hidden, width // 2), _CODES)
    down_scales = view(w2_scale, "w2_scale", (experts, hidden, width // 16), _SCALES)
    keep: list[Any] = [up, scales, down, down_scales]

    def of_experts(tensor: Any, name: str) -> tuple[View, int]:
        """A float an expert, of gate and up apart where it has two columns, and those columns."""
        two = parts == 2 and len(tensor.shape) == 2
        columns = 2 if two and tensor.shape[1] == 2 else 1
        shape = (experts, columns) if len(tensor.shape) == 2 else (experts,)
        keep.append(view(tensor, name, shape, ("float32",)))
        return keep[-1], columns

    def linear(part: int, codes: View, scales: View, globals_: Any, inputs: Any, bias: Any, names: str) -> Any:
        n, k = (width, hidden) if codes is up else (hidden, width)
        of = parts if codes is up else 1
        result = StackedLinear(
            codes=codes.pointer + part * n * k // 2,
            scales=scales.pointer + part * n * k // 16,
            codes_stride=of * n * k // 2,
            scales_stride=of * n * k // 16,
        )
        found, columns = of_experts(globals_, f"{names}_scale_2")
        result.global_scales = found.pointer + 4 * (part if columns == 2 else 0)
        result.global_scales_stride = columns
        if inputs is not None:
            found, columns = of_experts(inputs, f"{names}_input_scale")
            result.input_scales = found.pointer + 4 * (part if columns == 2 else 0)
            result.input_scales_stride = columns
        if bias is not None:
            keep.append(view(bias, f"{names}_bias", (experts, of * n), _BF16))
            result.bias = keep[-1].pointer + 2 * part * n
            result.bias_stride = of * n
        keep.append(result)
        return ctypes.pointer(result)

    desc = LayerDesc(
        struct_size=ctypes.sizeof(LayerDesc),
        hidden_size=hidden,
        intermediate_size=width,
        num_local_experts=experts,
        activation=kind,
    )
    if parts == 2:
        desc.stacked_gate = linear(0, up, scales, w13_scale_2, w13_input, w13_bias, "w13")
    desc.stacked_up = linear(parts - 1, up, scales, w13_scale_2, w13_input, w13_bias, "w13")
    desc.stacked_down = linear(0, down, down_scales, w2_scale_2, w2_input, w2_bias, "w2")
    devices = {each.device for each in keep if isinstance(each, View)}
    if len(devices) != 1:
        raise UsageError(f"the tensors are on devices {sorted(devices)} (-1: the CPU), expected one")
    (desc.device,) = devices
    desc.weights_on_device = desc.device >= 0
    if math.prod(up.shape) == 0:
        raise UsageError(f"w13 has shape {list(up.shape)}: there is nothing in it")
    return desc, keep


__all__ = ["Experts", "query"]
