"""vLLM's NVFP4 methods of ModelOpt and compressed-tensors with moe4 behind them.

They load weights as vLLM's own do, then hand the raw tensors of this rank to moe4 and free them.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.logger import init_logger
from vllm.model_executor.layers.fused_moe import modular_kernel as mk
from vllm.model_executor.layers.fused_moe.all2all_utils import maybe_make_prepare_finalize
from vllm.model_executor.layers.fused_moe.config import FUSED_MOE_UNQUANTIZED_CONFIG
from vllm.model_executor.layers.fused_moe.fused_moe_method_base import FusedMoEMethodBase
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_moe.compressed_tensors_moe_w4a4_nvfp4 import (  # noqa: E501
    CompressedTensorsW4A4Nvfp4MoEMethod,
)
from vllm.model_executor.layers.quantization.modelopt import ModelOptNvFp4FusedMoE
from vllm.model_executor.utils import replace_parameter
from vllm.platforms import current_platform

import moe4
from moe4.vllm.experts import ACTIVATIONS, Moe4Experts, device_index

logger = init_logger("vllm.moe4")

_OPTIONS = {"enabled": True, "activations": "auto", "backend": "auto"}
# vLLM's ways to bring tokens to experts of other ranks that hand over whole tokens, not quantised.
_ALL_TO_ALL = ("allgather_reducescatter", "naive", "deepep_high_throughput")


def options() -> dict[str, Any]:
    """The user's, with defaults; moe4.UsageError for one that there is not."""
    additional = getattr(get_current_vllm_config(), "additional_config", None) or {}
    given = additional.get("moe4", {}) if isinstance(additional, dict) else {}
    unknown = set(given) - set(_OPTIONS)
    if unknown:
        raise moe4.UsageError(f"additional_config: moe4 has no {sorted(unknown)}, expected {sorted(_OPTIONS)}")
    chosen = {**_OPTIONS, **given}
    for name in ("activations", "backend"):
        if not isinstance(chosen[name], str):
            raise moe4.UsageError(f"additional_config: moe4's {name} is {chosen[name]!r}, expected a name")
    _check_values(chosen["activations"], chosen["backend"])
    return chosen


@functools.cache
def _check_values(activations: str, backend: str) -> None:
    """moe4.UsageError for a mode or a backend that there is not, as for any layer."""
    activations = "bf16" if activations == "auto" else activations
    moe4.query(
        hidden_size=128, intermediate_size=128, num_experts=2, top_k=1, activations=activations, backend=backend
    )


def activations_of(use_a16: bool) -> str:
    """As asked, else FP4 where the checkpoint asks for it and the GPU has tensor cores for it."""
    asked = options()["activations"]
    if asked != "auto":
        return asked
    has_fp4 = current_platform.is_cuda() and current_platform.has_device_capability(100)
    return "fp4" if has_fp4 and not use_a16 else "bf16"


def why_not(moe: Any, use_a16: bool) -> str | None:
    """Why vLLM's own class must take a layer; None: moe4 does."""
    chosen = options()
    parallel = moe.moe_parallel_config
    if not chosen["enabled"]:
        return "additional_config turns it off"
    if getattr(moe, "moe_backend", "auto") != "auto":
        return f"--moe-backend {moe.moe_backend} asks for another backend"
    if moe.is_lora_enabled:
        return "LoRA needs vLLM's own experts"
    if getattr(parallel, "enable_eplb", False):
        return "expert load balancing moves weights"
    if parallel.use_batched_activation_format:
        return f"{parallel.all2all_backend} hands out tokens by expert"
    # "passthrough" counts without other ranks, too: the experts themselves move tokens then.
    if parallel.all2all_backend not in _ALL_TO_ALL and (
        parallel.use_all2all_kernels or getattr(parallel, "use_passthrough_all2all", False)
    ):
        return f"moe4 has not met {parallel.all2all_backend}, expected one of {', '.join(_ALL_TO_ALL)}"
    if moe.num_local_experts > moe.num_experts:
        return "shared experts are fused into the routed ones"
    if moe.activation not in ACTIVATIONS:
        return f"the activation {moe.activation.value} is not moe4's"
    if getattr(moe, "has_bias", False):
        return "experts with biases are not taken yet"
    activations = activations_of(use_a16)
    return _objection(
        hidden_size=moe.hidden_dim,
        intermediate_size=moe.intermediate_size_per_partition,
        num_experts=moe.num_experts,
        num_local_experts=moe.num_local_experts,
        top_k=moe.experts_per_token,
        device=device_index(),
        activation=ACTIVATIONS[moe.activation],
        limit=getattr(moe, "swiglu_limit", None),
        activations=activations,
        backend=chosen["backend"],
    )


def _objection(**layer: Any) -> str | None:
    """Why moe4 does not take a layer; the options were checked, so whatever moe4.query raises is of the layer."""
    try:
        answer = moe4.query(**layer)
    except moe4.Moe4Error as error:  # sizes that are no layer's, a GPU that this build is not for
        return str(error)
    return None if answer["backend"] else answer["reason"]


def check_vllm() -> None:
    """TypeError where this vLLM would call moe4 with other arguments than it has, or lacks what moe4 calls."""
    for name in ("apply", "workspace_shapes"):
        ours, theirs = (
            list(inspect.signature(getattr(cls, name)).parameters) for cls in (Moe4Experts, mk.FusedMoEExpertsModular)
        )
        if ours != theirs:
            raise TypeError(f"{name} of vLLM's experts has the parameters {theirs}, expected {ours}")
    for function, needed in (
        (maybe_make_prepare_finalize, {"moe", "quant_config"}),
        (mk.FusedMoEKernel, {"prepare_finalize", "fused_experts"}),
    ):
        missing = needed - set(inspect.signature(function).parameters)
        if missing:
            raise TypeError(f"vLLM's {function.__name__} has no {sorted(missing)}")
    for cls in (Moe4Experts, ModelOptMoe4FusedMoE, CompressedTensorsMoe4MoEMethod):
        if cls.__abstractmethods__:
            raise TypeError(f"vLLM's base of {cls.__name__} also wants {sorted(cls.__abstractmethods__)}")


def _accepted(function: Any, **arguments: Any) -> Any:
    """A call with those arguments that this vLLM's function has."""
    known = inspect.signature(function).parameters
    return function(**{name: value for name, value in arguments.items() if name in known})


class _Moe4Method:
    """What both dialects share; mixed into subclasses of vLLM's methods."""

    moe: Any
    use_a16: bool

    @property
    def supports_eplb(self) -> bool:
        return False

    def get_fused_moe_quant_config(self, layer: torch.nn.Module) -> Any:
        return FUSED_MOE_UNQUANTIZED_CONFIG  # nothing is quantised before the kernel

    def _pack(self, layer: torch.nn.Module, names: dict[str, str], reciprocal: bool) -> None:
        tensors = {ours: getattr(layer, theirs).data for ours, theirs in names.items()}
        activations = activations_of(self.use_a16)
        static = activations == "fp4-static"
        inputs = {key: tensors.pop(key) for key in ("w13_input_scale", "w2_input_scale")}
        moe = self.moe
        arguments: dict[str, Any] = {
            **tensors,
            **(inputs if static else {}),
            "top_k": moe.experts_per_token,
            "num_experts": moe.num_experts,
            "activation": ACTIVATIONS[moe.activation],
            "limit": getattr(moe, "swiglu_limit", None) or getattr(layer, "swiglu_limit", None),
            "expert_map_per_call": moe.num_local_experts != moe.num_experts,
            "activations": activations,
            "backend": options()["backend"],
            "reciprocal_scales": reciprocal,
        }
        if arguments["activation"] == "swigluoai":
            alpha, beta = getattr(moe, "swiglu_alpha", None), getattr(moe, "swiglu_beta", None)
            arguments |= {"alpha": 1.702 if alpha is None else alpha, "beta": 1.0 if beta is None else beta}
        experts = moe4.Experts.from_tensors(**arguments)
        self._free(layer, names, tensors)
        del arguments, tensors, inputs
        if experts.device >= 0:
            torch.cuda.empty_cache()  # moe4's memory is not PyTorch's: without this the raw tensors' stays
        self.moe_quant_config = self.get_fused_moe_quant_config(layer)
        prepare = _accepted(
            maybe_make_prepare_finalize,
            moe=moe,
            quant_config=self.moe_quant_config,
            routing_tables=layer._expert_routing_tables(),
            allow_new_interface=True,
            use_monolithic=False,
        )
        kernel = Moe4Experts(moe_config=moe, quant_config=self.moe_quant_config)
        kernel.take(experts)
        self.moe_kernel = _accepted(mk.FusedMoEKernel, prepare_finalize=prepare, fused_experts=kernel)
        logger.info_once(
            "moe4 runs the routed experts: %d of %d here, %d x %d, backend %s, activations %s",
            experts.num_local_experts,
            experts.num_experts,
            experts.hidden_size,
            experts.intermediate_size,
            experts.backend,
            activations,
        )
        name = getattr(layer, "layer_name", "a layer")
        logger.debug("moe4: %s: %s, activations %s", name, experts.backend, activations)

    def _free(self, layer: torch.nn.Module, names: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
        """Raw tensors go; vLLM reads the number of experts off what is left."""
        for ours in ("w13", "w2"):
            raw = tensors[ours]
            left = torch.nn.Parameter(raw.new_empty(raw.shape[0], raw.shape[1], 0), requires_grad=False)
            if names[ours] != f"{ours}_weight":
                delattr(layer, names[ours])
                layer.register_parameter(f"{ours}_weight", left)
            else:
                replace_parameter(layer, names[ours], left)
        for ours, theirs in names.items():
            if "_scale" in ours:
                replace_parameter(layer, theirs, getattr(layer, theirs).data.new_empty(0))


# vLLM chooses how scales load by "ModelOpt" and "compressed" in the name of the class.
class ModelOptMoe4FusedMoE(_Moe4Method, ModelOptNvFp4FusedMoE):
    """ModelOpt's NVFP4 and W4A16."""

    supports_pre_processed_weights = False

    def __init__(self, quant_config: Any, moe_config: Any) -> None:
        FusedMoEMethodBase.__init__(self, moe_config)  # ModelOptNvFp4FusedMoE's asks vLLM's own backends
        self.quant_config = quant_config
        self.use_a16 = quant_config.quant_method == "W4A16_NVFP4"
        self.use_global_sf = False
        self.nvfp4_backend = None
        self.experts_cls = Moe4Experts  # asked for is_monolithic() before there is a kernel
        self.per_token_activation = False

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        names = {
            f"w{w}{ours}": f"w{w}_{theirs}"
            for w in (13, 2)
            for ours, theirs in (
                ("", "weight"),
                ("_scale", "weight_scale"),
                ("_scale_2", "weight_scale_2"),
                ("_input_scale", "input_scale"),
            )
        }
        self._pack(layer, names, reciprocal=False)


class CompressedTensorsMoe4MoEMethod(_Moe4Method, CompressedTensorsW4A4Nvfp4MoEMethod):
    """NVFP4 of compressed-tensors, with and without quantised activations; "compressed" in any case."""

    def __init__(self, moe: Any, layer_name: str | None = None, use_a16: bool = False) -> None:
        FusedMoEMethodBase.__init__(self, moe)
        self.group_size = 16
        self.use_a16 = use_a16
        self.use_global_sf = False
        self.nvfp4_backend = None
        self.experts_cls = Moe4Experts  # asked for is_monolithic() before there is a kernel

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        names = {
            f"w{w}{ours}": f"w{w}_{theirs}"
            for w in (13, 2)
            for ours, theirs in (
                ("", "weight_packed"),
                ("_scale", "weight_scale"),
                ("_scale_2", "weight_global_scale"),
                ("_input_scale", "input_global_scale"),
            )
        }
        self._pack(layer, names, reciprocal=True)
