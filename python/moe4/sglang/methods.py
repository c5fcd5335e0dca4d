"""SGLang's method of ModelOpt's NVFP4 experts with moe4 behind it.

It loads weights as SGLang's own does, then hands the raw tensors of this rank to moe4 and frees them.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.layers.moe.moe_runner.base import DispatchMoeRunnerCore
from sglang.srt.layers.moe.moe_runner.runner import MoeRunner, register_moe_runner_core
from sglang.srt.layers.moe.utils import get_moe_a2a_backend, get_moe_runner_backend
from sglang.srt.layers.quantization.modelopt_quant import ModelOptNvFp4FusedMoEMethod
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.runtime_context import get_exec, get_lora

import moe4
import moe4.torch
from moe4.sglang.hooks import NAMES, leave
from moe4.sglang.runner import Moe4QuantInfo, Moe4RunnerCore

logger = logging.getLogger("sglang.moe4")

_METHOD = "sglang.srt.layers.quantization.modelopt_quant.ModelOptNvFp4FusedMoEMethod.__init__"
_installed = False
_said: set[tuple[Any, ...]] = set()


def install() -> None:
    """The runner and its method of NVFP4 experts, once; TypeError for an SGLang that calls them otherwise."""
    global _installed
    if _installed:
        return
    check_sglang()
    for name in NAMES:
        register_moe_runner_core(name, Moe4RunnerCore)
    HookRegistry.register(_METHOD, _choose, HookType.AROUND)
    HookRegistry.apply_hooks()
    if not hasattr(ModelOptNvFp4FusedMoEMethod.__init__, "__wrapped__"):
        raise TypeError("SGLang's hooks did not reach its NVFP4 method")
    _installed = True


def check_sglang() -> None:
    """TypeError where this SGLang would call moe4 with other arguments than it has, or lacks what moe4 calls."""
    ours = list(inspect.signature(Moe4RunnerCore.run_from_dispatch).parameters)
    theirs = list(inspect.signature(DispatchMoeRunnerCore.run_from_dispatch).parameters)
    if ours != theirs:
        raise TypeError(f"run_from_dispatch of SGLang's runners has the parameters {theirs}, expected {ours}")
    base = ModelOptNvFp4FusedMoEMethod
    for name, known in {
        "__init__": ["self", "quant_config"],
        "create_weights": [
            "self", "layer", "num_experts", "hidden_size", "intermediate_size_per_partition", "params_dtype",
            "extra_weight_attrs",
        ],
        "process_weights_after_loading": ["self", "layer"],
        "create_moe_runner": ["self", "layer", "moe_runner_config"],
        "get_moe_runner_backend": ["self", "layer"],
        "apply": ["self", "layer", "dispatch_output"],
    }.items():  # fmt: skip
        found = list(inspect.signature(getattr(base, name)).parameters)
        if found != known:
            raise TypeError(f"{name} of SGLang's NVFP4 method has the parameters {found}, expected {known}")
    for cls in (Moe4RunnerCore, ModelOptMoe4FusedMoEMethod):
        if cls.__abstractmethods__:
            raise TypeError(f"SGLang's base of {cls.__name__} also wants {sorted(cls.__abstractmethods__)}")


def _choose(original: Callable[..., None], self: Any, quant_config: Any, *args: Any, **kwargs: Any) -> None:
    """Where moe4 is asked for, the object becomes one of its class: SGLang's __init__ would refuse Hopper and CPUs.

    SGLang's subclasses are left as they are.
    """
    wanted = get_moe_runner_backend().value in NAMES and quant_config.is_checkpoint_nvfp4_serialized
    if type(self) is ModelOptNvFp4FusedMoEMethod and wanted:
        self.__class__ = ModelOptMoe4FusedMoEMethod
        self.take(quant_config)
    else:
        original(self, quant_config, *args, **kwargs)


def activations_of(quant_config: Any, runner: Any) -> str:
    """As the runner's name says, else FP4 where the checkpoint asks for it and the GPU has tensor cores for it."""
    asked = NAMES[runner.value]
    if asked != "auto":
        return asked
    has_fp4 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (10, 0)
    return "fp4" if has_fp4 and not getattr(quant_config, "is_w4a16", False) else "bf16"


def _activation(config: Any) -> str | None:
    """As moe4 calls it; None where it computes another."""
    if config.gemm1_alpha is not None or config.gemm1_clamp_limit is not None:
        return None
    return {("silu", True): "silu", ("relu2", False): "relu2"}.get((config.activation, config.is_gated))


def why_not(layer: torch.nn.Module, activations: str) -> str | None:
    """Why SGLang's own method must take a layer; None: moe4 does."""
    config = layer.moe_runner_config
    if not get_moe_a2a_backend().is_none():
        return f"--moe-a2a-backend {get_moe_a2a_backend().value} hands out tokens by expert"
    if get_lora().enable_lora or get_lora().lora_paths:
        return "LoRA needs SGLang's own experts"
    if get_exec().moe.enable_eplb:
        return "expert load balancing moves weights"
    if config.no_combine:
        return "the layer wants the experts' outputs apart"
    if layer.with_bias:
        return "experts with biases are not taken yet"
    activation = _activation(config)
    if activation is None:
        return f"moe4 does not compute {config.activation} (gated: {config.is_gated}, alpha: {config.gemm1_alpha})"
    answer = moe4.query(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size_per_partition,
        num_experts=config.num_local_experts,
        top_k=config.top_k,
        # SGLang makes layers under its device, or without memory.
        device=-1 if torch.get_default_device().type == "cpu" else torch.cuda.current_device(),
        activation=activation,
        limit=config.swiglu_limit,
        activations=activations,
    )
    return None if answer["backend"] else answer["reason"]


# SGLang chooses how scales load by "ModelOpt" in the name of the class.
class ModelOptMoe4FusedMoEMethod(ModelOptNvFp4FusedMoEMethod):
    """ModelOpt's NVFP4 and W4A16."""

    is_moe4 = True
    quant_info: Moe4QuantInfo

    def take(self, quant_config: Any) -> None:
        """In place of SGLang's __init__."""
        self.quant_config = quant_config
        self._moe_runner_backend = get_moe_runner_backend()  # drafts may have another
        self.activations = activations_of(quant_config, self._moe_runner_backend)
        self._lora_marlin = False
        self.enable_flashinfer_trtllm_moe = False
        self.use_flashinfer_trtllm_weight_layout = False
        self._cache_permute_indices: dict[Any, Any] = {}

    def create_weights(
        self,
        layer: torch.nn.Module,
        num_experts: int,
        hidden_size: int,
        intermediate_size_per_partition: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        sizes = (num_experts, hidden_size, intermediate_size_per_partition, params_dtype)
        try:
            reason = why_not(layer, self.activations)
        except moe4.Moe4Error as error:  # sizes that are no layer's
            reason = str(error)
        except AttributeError as error:  # a user's start must not fail for an SGLang that changed
            reason = f"this SGLang is not as moe4 knows it: {error}"
        if reason is not None:
            reason = f"layer {getattr(layer, 'layer_id', '?')}: {reason}"
            if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (10, 0):
                # SGLang has laid out what its runner there wants before it comes here.
                raise moe4.UnavailableError(f"{reason}: leave --moe-runner-backend moe4 out")
            leave(reason)
            self.__class__ = ModelOptNvFp4FusedMoEMethod
            self.__init__(self.quant_config)  # SGLang's own, since it chooses now
            return self.create_weights(layer, *sizes, **extra_weight_attrs)
        super().create_weights(layer, *sizes, **extra_weight_attrs)
        for name in ("w13_blockscale_swizzled", "w2_blockscale_swizzled"):  # as large as the scales, for other runners
            delattr(layer, name)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        if getattr(layer, "inference_moe_w13_interleaved", False):
            from sglang.srt.layers.quantization.modelopt_quant import deinterleave_w13

            for name in ("w13_weight", "w13_weight_scale"):
                getattr(layer, name).data = deinterleave_w13(getattr(layer, name).data, up_first=False)
        config = layer.moe_runner_config
        arguments = {
            f"w{w}{ours}": getattr(layer, f"w{w}_{theirs}").data
            for w in (13, 2)
            for ours, theirs in (("", "weight"), ("_scale", "weight_scale"), ("_scale_2", "weight_scale_2"))
        }
        if self.activations == "fp4-static":
            first = layer.moe_ep_rank * layer.num_local_experts
            for w in (13, 2):
                of_all = getattr(layer, f"w{w}_input_scale").data.float()
                arguments[f"w{w}_input_scale"] = of_all[first : first + layer.num_local_experts].contiguous()
        experts = moe4.Experts.from_tensors(
            **arguments,
            top_k=config.top_k,
            num_experts=layer.num_local_experts,
            activation=_activation(config),
            limit=config.swiglu_limit,
            weight_on_input=config.apply_router_weight_on_input,
            activations=self.activations,
        )
        del arguments
        self._free(layer)
        if experts.device >= 0:
            torch.cuda.empty_cache()  # moe4's memory is not PyTorch's: without this the raw tensors' stays
        self.quant_info = Moe4QuantInfo(experts, moe4.torch.register(experts))
        line = (experts.num_local_experts, layer.num_experts, experts.hidden_size, experts.intermediate_size)
        line += (experts.backend, self.activations)
        if line not in _said:
            _said.add(line)
            logger.info("moe4 runs the routed experts: %d of %d here, %d x %d, backend %s, activations %s", *line)

    @staticmethod
    def _free(layer: torch.nn.Module) -> None:
        """Raw tensors go; SGLang reads the number of experts off what is left."""
        for w in (13, 2):
            raw = getattr(layer, f"w{w}_weight").data
            getattr(layer, f"w{w}_weight").data = raw.new_empty(raw.shape[0], raw.shape[1], 0)
            scale = getattr(layer, f"w{w}_weight_scale")
            scale.data = scale.data.new_empty(scale.shape[0], scale.shape[1], 0)

    def create_moe_runner(self, layer: torch.nn.Module, moe_runner_config: Any) -> None:
        self.moe_runner_config = moe_runner_config
        self.runner = MoeRunner(self._moe_runner_backend, moe_runner_config)

    def apply(self, layer: torch.nn.Module, dispatch_output: Any) -> Any:
        return self.runner.run(dispatch_output, self.quant_info)
