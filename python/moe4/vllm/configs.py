"""vLLM's quantization configs, each a subclass under its own name that asks moe4 first."""

from __future__ import annotations

from typing import Any

from vllm.logger import init_logger
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig
from vllm.model_executor.layers.quantization.modelopt import (
    ModelOptMixedPrecisionConfig,
    ModelOptNvFp4Config,
    ModelOptNvFp4FusedMoE,
)

from moe4.vllm.methods import CompressedTensorsMoe4MoEMethod, ModelOptMoe4FusedMoE, check_vllm, why_not

logger = init_logger("vllm.moe4")


def _is_experts(layer: Any) -> bool:
    return any(cls.__name__ in ("RoutedExperts", "FusedMoE") for cls in type(layer).__mro__)


def _takes(moe: Any, use_a16: bool, name: str) -> bool:
    """Whether moe4 takes the experts called `name`; else the log says why not."""
    try:
        reason = why_not(moe, use_a16)
    except (AttributeError, KeyError) as error:  # a user's start must not fail for a vLLM that changed
        reason = f"this vLLM is not as moe4 knows it: {type(error).__name__}: {error}"
    if reason is not None:
        logger.info_once("moe4 leaves %s to vLLM: %s", name, reason)
    return reason is None


def _modelopt_method(quant_config: Any, moe_config: Any, name: str) -> Any:
    """moe4's method, or vLLM's own with the reason in the log."""
    override = getattr(quant_config, "moe_activation_override", None)  # an option of the user's, 0.29 and later
    if override is not None:
        logger.info_once("moe4 leaves %s to vLLM: the activations shall be %s", name, override)
    ours = override is None and _takes(moe_config, quant_config.quant_method == "W4A16_NVFP4", name)
    cls = ModelOptMoe4FusedMoE if ours else ModelOptNvFp4FusedMoE
    return cls(quant_config=quant_config, moe_config=moe_config)


class Moe4ModelOptNvFp4Config(ModelOptNvFp4Config):
    """``modelopt_fp4``"""

    _name = "the routed experts"  # of the layer that is asked for

    def get_quant_method(self, layer: Any, prefix: str) -> Any:
        self._name = prefix  # vLLM does not hand it on
        return super().get_quant_method(layer, prefix)

    def FusedMoEMethodCls(self, quant_config: Any, moe_config: Any) -> Any:  # noqa: N802: vLLM's name of a class
        return _modelopt_method(quant_config, moe_config, self._name)


class Moe4ModelOptMixedPrecisionConfig(ModelOptMixedPrecisionConfig):
    """``modelopt_mixed``"""

    def get_quant_method(self, layer: Any, prefix: str) -> Any:
        if _is_experts(layer) and not self.is_layer_excluded(prefix):
            configs = {"NVFP4": self.nvfp4_config, "W4A16_NVFP4": getattr(self, "w4a16_nvfp4_config", None)}
            config = configs.get(self._resolve_quant_algo(prefix))
            if config is not None:
                return _modelopt_method(config, layer.moe_config, prefix)
        return super().get_quant_method(layer, prefix)


class Moe4CompressedTensorsConfig(CompressedTensorsConfig):
    """``compressed-tensors``"""

    def get_quant_method(self, layer: Any, prefix: str) -> Any:
        if _is_experts(layer):
            scheme = self._scheme_of_experts(layer, prefix)
            if scheme and self._is_nvfp4_format(scheme.get("weights")):
                inputs = scheme.get("input_activations")
                taken = inputs is None or self._is_nvfp4_format(inputs)
                if taken and _takes(layer.moe_config, inputs is None, prefix):
                    return CompressedTensorsMoe4MoEMethod(layer.moe_config, prefix, use_a16=inputs is None)
        return super().get_quant_method(layer, prefix)

    def _scheme_of_experts(self, layer: Any, prefix: str) -> Any:
        """The scheme that all projections share; None where they differ, which vLLM's own method reports."""
        self._add_fused_moe_to_target_scheme_map()
        names = [getattr(layer, f"ckpt_{part}_proj_name", f"{part}_proj") for part in ("gate", "up", "down")]
        schemes = [self.get_scheme_dict(layer, f"{prefix}.0.{name}") for name in names if name]
        return schemes[0] if all(scheme == schemes[0] for scheme in schemes) else None


def register() -> None:
    """Under the names that checkpoints and loaders use; TypeError for a vLLM that calls what moe4 has otherwise."""
    check_vllm()
    register_quantization_config("modelopt_fp4")(Moe4ModelOptNvFp4Config)
    register_quantization_config("modelopt_mixed")(Moe4ModelOptMixedPrecisionConfig)
    register_quantization_config("compressed-tensors")(Moe4CompressedTensorsConfig)
