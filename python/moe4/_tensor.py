"""Tensors of NumPy and PyTorch as the library takes them, without importing either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moe4._errors import UsageError

# Names by which both packages, and ml_dtypes beside NumPy, call what a byte or two hold.
_SIZES = {
    "uint8": 1,
    "int8": 1,
    "float8_e4m3fn": 1,
    "float4_e2m1fn_x2": 1,
    "bfloat16": 2,
    "float16": 2,
    "uint16": 2,
    "float32": 4,
    "int32": 4,
    "int64": 8,
}


@dataclass
class View:
    """Where a tensor lies. ``device``: a CUDA ordinal, -1 for the CPU. ``owner`` keeps the memory."""

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    device: int
    owner: Any


def view(tensor: Any, name: str, shape: tuple[int | None, ...], dtypes: tuple[str, ...]) -> View:
    """A dense view of a tensor whose shape (None: any) and type are checked, or UsageError naming it."""
    dtype = str(getattr(tensor, "dtype", type(tensor).__name__)).removeprefix("torch.")
    if hasattr(tensor, "data_ptr"):
        tensor = tensor.detach()
        device = -1 if tensor.device.type == "cpu" else (tensor.device.index or 0)
        dense = tensor if tensor.is_contiguous() else tensor.contiguous()
        pointer = dense.data_ptr()
    elif hasattr(tensor, "__array_interface__"):
        device, dense = -1, tensor
        if not tensor.flags["C_CONTIGUOUS"]:
            dense = tensor.copy(order="C")
        pointer = dense.ctypes.data
    else:
        raise UsageError(f"{name} is a {dtype}, expected a tensor of PyTorch or NumPy")
    found = tuple(int(size) for size in tensor.shape)
    if len(found) != len(shape) or any(want not in (None, have) for have, want in zip(found, shape)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise UsageError(f"{name} has shape {list(found)}, expected [{wanted}]")
    if dtype not in dtypes or dtype not in _SIZES:
        raise UsageError(f"{name} is {dtype}, expected {' or '.join(dtypes)}")
    return View(pointer, found, dtype, device, dense)


def empty_like(tensor: Any) -> Any:
    """A tensor of the same package, type, shape and device, dense."""
    if hasattr(tensor, "data_ptr"):
        return tensor.new_empty(tensor.shape)
    import numpy

    return numpy.empty(tensor.shape, tensor.dtype)


def scratch(tensor: Any, size: int) -> tuple[int, Any]:
    """Memory beside a tensor, its address and what keeps it. On a GPU it is of the current stream."""
    if hasattr(tensor, "data_ptr"):
        import torch

        memory = torch.empty(size, dtype=torch.uint8, device=tensor.device)
        return memory.data_ptr(), memory
    import numpy

    memory = numpy.empty(size, numpy.uint8)
    return memory.ctypes.data, memory
