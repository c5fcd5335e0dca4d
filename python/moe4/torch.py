"""``moe4.Experts`` as PyTorch operators, for torch.compile, CUDA graphs and modules.

    experts = moe4.Experts.from_tensors(...)
    module = moe4.torch.ExpertsModule(experts)
    y = module(x, topk_weights, topk_ids)            # also inside torch.compile(fullgraph=True)

``torch.ops.moe4.experts(x, topk_ids, topk_weights, layer)`` gives a new tensor, ``experts_out`` writes one and may be
given its scratch memory; ``layer`` is the number that :func:`register` gave. There is no backward.
"""

from __future__ import annotations

import itertools

import torch

from moe4._experts import Experts

_layers: dict[int, Experts] = {}
_numbers = itertools.count(1)

_library = torch.library.Library("moe4", "DEF")
_library.define(
    "experts(Tensor x, Tensor topk_ids, Tensor topk_weights, int layer, *, Tensor? expert_map=None) -> Tensor"
)
_library.define(
    "experts_out(Tensor x, Tensor topk_ids, Tensor topk_weights, int layer, Tensor(a!) out, *, "
    "Tensor(b!)? workspace=None, Tensor? expert_map=None) -> ()"
)


def register(experts: Experts) -> int:
    """The number of a layer for the operators, which keeps it until :func:`release`."""
    number = next(_numbers)
    _layers[number] = experts
    return number


def release(layer: int) -> None:
    """Lets go of a layer."""
    del _layers[layer]


def _experts(
    x: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor,
    layer: int,
    *,
    expert_map: torch.Tensor | None = None,
) -> torch.Tensor:
    return _layers[layer](x, topk_weights, topk_ids, expert_map=expert_map)


def _experts_out(
    x: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor,
    layer: int,
    out: torch.Tensor,
    *,
    workspace: torch.Tensor | None = None,
    expert_map: torch.Tensor | None = None,
) -> None:
    _layers[layer](x, topk_weights, topk_ids, out=out, workspace=workspace, expert_map=expert_map)


for _key in ("CPU", "CUDA"):
    _library.impl("experts", _experts, _key)
    _library.impl("experts_out", _experts_out, _key)


@torch.library.register_fake("moe4::experts", lib=_library)
def _(
    x: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor,
    layer: int,
    *,
    expert_map: torch.Tensor | None = None,
) -> torch.Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("moe4::experts_out", lib=_library)
def _(
    x: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor,
    layer: int,
    out: torch.Tensor,
    *,
    workspace: torch.Tensor | None = None,
    expert_map: torch.Tensor | None = None,
) -> None:
    return None


class ExpertsModule(torch.nn.Module):
    """A layer as a module without parameters; its weights stay where they are packed."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.experts = experts
        self.layer = register(experts)

    def forward(self, x: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor) -> torch.Tensor:
        """The output [T, H] of hidden states [T, H]; see :meth:`moe4.Experts.__call__`."""
        return torch.ops.moe4.experts(x, topk_ids, topk_weights, self.layer)

    def extra_repr(self) -> str:
        e = self.experts
        return f"{e.num_local_experts} experts of {e.hidden_size} x {e.intermediate_size}, top {e.top_k}, {e.backend}"

    def __del__(self) -> None:
        # Globals may be gone where the interpreter ends.
        if _layers is not None:
            _layers.pop(getattr(self, "layer", 0), None)
