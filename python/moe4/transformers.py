"""NVFP4 mixture-of-experts checkpoints in transformers: import it, then ``from_pretrained`` takes them.

    import moe4.transformers
    model = AutoModelForCausalLM.from_pretrained("FOLDER")

Routed experts in NVFP4 run on moe4, packed layer by layer from the files. Other linears that were quantised, NVFP4 or
FP8, are decoded to the model's own type. Registers the quantizer ``modelopt``, which transformers does not have, and
the experts implementation ``moe4``; takes the NVFP4 checkpoints of ``compressed-tensors``, whose experts transformers
5.24 scales wrong, and leaves its others alone. For inference; transformers' tensor and expert parallelism are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors import safe_open
from transformers.integrations import moe as hf_moe
from transformers.quantizers import auto
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from moe4._errors import BadInputError, Moe4Error, UsageError
from moe4._experts import Experts
from moe4.torch import ExpertsModule

logger = logging.get_logger("moe4.transformers")

# Activations by the names of config.json.
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "relu2": "relu2"}
# Gate, up and down as families name them.
_PROJECTIONS = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))


@dataclass(frozen=True)
class _Dialect:
    """Names of an NVFP4 linear's tensors, and whether its scales of float32 divide."""

    codes: str
    global_scale: str
    input_scale: str
    reciprocal: bool


_DIALECTS = (
    _Dialect("weight", "weight_scale_2", "input_scale", reciprocal=False),  # ModelOpt
    _Dialect("weight_packed", "weight_global_scale", "input_global_scale", reciprocal=True),  # compressed-tensors
)
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


@dataclass(frozen=True)
class Settings:
    """How layers are made from now on; see :func:`configure`."""

    activations: str = "bf16"
    backend: str = "auto"
    batch_invariant: bool = False


_settings = Settings()


def configure(**settings: Any) -> None:
    """``activations`` ("bf16", "fp4", "fp4-static"), ``backend``, ``batch_invariant`` of models loaded from now on."""
    global _settings
    _settings = replace(_settings, **settings)


class ModelOptConfig(QuantizationConfigMixin):
    """``quantization_config`` as ModelOpt writes it, with all of its keys."""

    def __init__(self, **settings: Any) -> None:
        self.quant_method = "modelopt"
        self.__dict__.update(settings)


class CompressedTensorsNvFp4Config(ModelOptConfig):
    """``quantization_config`` of compressed-tensors with NVFP4 in it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.quant_method = "compressed-tensors"


class _Files:
    """The tensors of a checkpoint by name, read when they are asked for."""

    def __init__(self, files: Iterable[str]) -> None:
        self._files = [safe_open(file, framework="pt") for file in files]
        self._place = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118
        # Wrappers put other names before "layers.3.": what follows names a module in all of them.
        self._by_tail: dict[str, str] = {_tail(name): name for name in self._place}

    def find(self, module: str, name: str) -> str | None:
        """The checkpoint's name of a module's tensor."""
        full = f"{module}.{name}"
        return full if full in self._place else self._by_tail.get(_tail(full))

    def get(self, module: str, name: str) -> torch.Tensor:
        found = self.find(module, name)
        if found is None:
            raise BadInputError(f"the checkpoint has no tensor {module}.{name}")
        return self._place[found].get_tensor(found)

    def nvfp4(self, module: str) -> _Dialect | None:
        """How a linear's NVFP4 is written; None: it has none."""
        return next((dialect for dialect in _DIALECTS if self.find(module, dialect.global_scale)), None)


def _tail(name: str) -> str:
    match = re.search(r"(?:^|\.)(layers\.\d+\..*)$", name)
    return match.group(1) if match else name


class NvFp4Experts(torch.nn.Module):
    """Takes the place of a family's experts module; a layer of moe4 once its weights are there."""

    def __init__(self, name: str, num_experts: int, activation: str) -> None:
        super().__init__()
        self.name, self.num_experts, self.activation = name, num_experts, activation
        self.layer: ExpertsModule | None = None

    def load(self, files: _Files, top_k: int, device: torch.device) -> None:
        """Reads and packs the layer; what it read is gone afterwards."""
        names = next(p for p in _PROJECTIONS if files.nvfp4(f"{self.name}.0.{p[2]}"))
        dialect = files.nvfp4(f"{self.name}.0.{names[2]}")
        rows = names[1:2] if self.activation == "relu2" else names[:2]

        def stacked(projections: Iterable[str], tensor: str) -> torch.Tensor:
            of_experts = [
                torch.cat([files.get(f"{self.name}.{e}.{p}", tensor) for p in projections])
                for e in range(self.num_experts)
            ]
            return torch.stack(of_experts).to(device)

        def scalars(projections: Iterable[str], tensor: str) -> torch.Tensor:
            of_experts = [
                [files.get(f"{self.name}.{e}.{p}", tensor).float().reshape(()) for p in projections]
                for e in range(self.num_experts)
            ]
            return torch.stack([torch.stack(values) for values in of_experts]).to(device)

        options: dict[str, Any] = {}
        if _settings.activations == "fp4-static":
            options["w13_input_scale"] = scalars(rows, dialect.input_scale)
            options["w2_input_scale"] = scalars(names[2:], dialect.input_scale)
        try:
            experts = Experts.from_tensors(
                stacked(rows, dialect.codes),
                stacked(rows, "weight_scale"),
                scalars(rows, dialect.global_scale),
                stacked(names[2:], dialect.codes),
                stacked(names[2:], "weight_scale"),
                scalars(names[2:], dialect.global_scale),
                top_k=top_k,
                num_experts=self.num_experts,
                activation=self.activation,
                activations=_settings.activations,
                backend=_settings.backend,
                batch_invariant=_settings.batch_invariant,
                reciprocal_scales=dialect.reciprocal,
                **options,
            )
        except Moe4Error as error:  # transformers has no experts of its own to step aside for
            raise type(error)(f"{self.name}: {error}") from error
        self.layer = ExpertsModule(experts)

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        shape = hidden_states.shape
        y = self.layer(hidden_states.reshape(-1, shape[-1]), top_k_weights.float(), top_k_index)
        return y.reshape(shape)


class _Pending(torch.nn.Module):
    """Stands for a quantised linear until its weights are read."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.has_bias = linear.bias is not None

    def decoded(self, name: str, files: _Files, device: torch.device, dtype: torch.dtype) -> torch.nn.Linear:
        """The linear with its weights in `dtype`."""
        dialect, scale = files.nvfp4(name), files.get(name, "weight_scale")
        weight = files.get(name, dialect.codes if dialect else "weight")
        if dialect and weight.dtype == torch.uint8:
            table = torch.tensor(_E2M1)
            codes = torch.stack([weight & 15, weight >> 4], -1).reshape(weight.shape[0], -1)
            global_scale = files.get(name, dialect.global_scale).float()
            blocks = scale.float() * (1 / global_scale if dialect.reciprocal else global_scale)
            values = table[codes.long()] * blocks.repeat_interleave(16, 1)
        elif weight.dtype == torch.float8_e4m3fn and scale.numel() in (1, weight.shape[0]):
            values = weight.float() * scale.float().reshape(-1, 1)
        else:
            raise BadInputError(
                f"{name}: expected NVFP4, or FP8 with a scale for all or one a row, found {weight.dtype} with scales "
                f"{list(scale.shape)}"
            )
        if list(values.shape) != [self.out_features, self.in_features]:
            raise BadInputError(
                f"{name}.weight: expected [{self.out_features}, {self.in_features}], found {list(values.shape)}"
            )
        linear = torch.nn.Linear(self.in_features, self.out_features, self.has_bias, device="meta")
        linear.weight = torch.nn.Parameter(values.to(device, dtype), requires_grad=False)
        if self.has_bias:
            linear.bias = torch.nn.Parameter(files.get(name, "bias").to(device, dtype), requires_grad=False)
        return linear


class NvFp4Quantizer(HfQuantizer):
    """Loads checkpoints with NVFP4 experts."""

    requires_calibration = True
    is_trainable = False
    is_compileable = True

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        return False

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        places = set(device_map.values()) if isinstance(device_map, dict) else {device_map}
        if places & {"disk", "meta"}:
            raise UsageError(f"device_map is {device_map}: moe4's layers stay on a device")

    def _process_model_before_weight_loading(self, model: Any, checkpoint_files: Any = None, **kwargs: Any) -> Any:
        if not checkpoint_files or not all(str(file).endswith(".safetensors") for file in checkpoint_files):
            raise UsageError("an NVFP4 checkpoint is expected as .safetensors files")
        self._files = _Files(checkpoint_files)
        config = model.config.get_text_config()
        if getattr(config, "distributed_config", None) is not None:
            raise UsageError("moe4 takes no part in transformers' tensor or expert parallelism: use one device")
        self._experts: list[str] = []
        self._linears: list[str] = []
        for name, module in list(model.named_modules()):
            if hasattr(module, "gate_up_proj") or hasattr(module, "_is_expert_parallel"):
                if not any(self._files.nvfp4(f"{name}.0.{p[2]}") for p in _PROJECTIONS):
                    continue
                model.set_submodule(name, NvFp4Experts(name, module.num_experts, _activation(name, module, config)))
                self._experts.append(name)
            elif isinstance(module, torch.nn.Linear) and self._files.find(name, "weight_scale"):
                model.set_submodule(name, _Pending(module))
                self._linears.append(name)
        if not self._experts:
            logger.warning("moe4: no layer of this checkpoint has NVFP4 experts; its linears are decoded")
        ignored = set(model._keys_to_ignore_on_load_unexpected or ())
        ignored |= {rf"^{re.escape(name)}\." for name in self._experts + self._linears}
        ignored |= {r"\.[kv]_scale$", r"\.[kv]_proj\.[kv]_scale$", r"\.experts\."}
        model._keys_to_ignore_on_load_unexpected = ignored
        return model

    def update_weight_conversions(self, weight_conversions: list[Any], model: Any = None) -> list[Any]:
        """Without those that merge experts into one tensor: theirs are read elsewhere."""
        if not self._experts:
            return weight_conversions
        return [
            conversion
            for conversion in weight_conversions
            if not any("experts.*." in source for source in getattr(conversion, "source_patterns", ()))
        ]

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        top_k = _top_k(model.config.get_text_config())
        for name in self._linears:
            device, dtype = _place(model, name)
            linear = model.get_submodule(name).decoded(name, self._files, device, dtype)
            model.set_submodule(name, linear)
        for name in self._experts:
            device, _ = _place(model, name)
            model.get_submodule(name).load(self._files, top_k, device)
        if self._experts:
            experts = model.get_submodule(self._experts[0]).layer.experts
            logger.info(
                f"moe4: {len(self._experts)} layers of experts on {experts.backend}, "
                f"activations {_settings.activations}"
            )
        del self._files
        return model


def _activation(name: str, module: Any, config: Any) -> str:
    """The layer's activation, or UsageError for one that moe4 would compute otherwise."""
    found = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
    gate = getattr(type(module), "_apply_gate", None)
    own_gate = gate is not None and gate is not hf_moe._default_apply_gate
    if getattr(module, "has_bias", False) or own_gate or getattr(module, "has_post_expert_norm", False):
        raise UsageError(f"{name}: experts with biases, a gate or a norm of their own are not taken yet")
    if found not in _ACTIVATIONS:
        raise UsageError(f"{name}: the activation {found!r} is none of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[found]


def _top_k(config: Any) -> int:
    for key in ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"):
        if getattr(config, key, None):
            return int(getattr(config, key))
    raise UsageError("config.json does not say how many experts a token has")


def _place(model: Any, name: str) -> tuple[torch.device, torch.dtype]:
    """Device and type of what surrounds a module."""
    while name:
        name = name.rpartition(".")[0]
        for parameter in model.get_submodule(name).parameters():
            if parameter.is_floating_point() and parameter.device.type != "meta":
                return parameter.device, parameter.dtype
    return torch.device("cpu"), model.dtype


def _take_compressed_tensors() -> None:
    """NVFP4 checkpoints go to moe4's quantizer, all others to the one that was there."""
    configs, quantizers = auto.AUTO_QUANTIZATION_CONFIG_MAPPING, auto.AUTO_QUANTIZER_MAPPING
    their_config, their_quantizer = configs["compressed-tensors"], quantizers["compressed-tensors"]

    class Config(their_config):
        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            groups = (config_dict.get("config_groups") or {}).values()
            formats = {config_dict.get("format"), *(g.get("format") for g in groups if isinstance(g, dict))}
            if "nvfp4-pack-quantized" in formats:
                return CompressedTensorsNvFp4Config(**config_dict)
            return their_config.from_dict(config_dict, *args, **kwargs)

    def quantizer(config: Any, **kwargs: Any) -> Any:
        ours = isinstance(config, CompressedTensorsNvFp4Config)
        return (NvFp4Quantizer if ours else their_quantizer)(config, **kwargs)

    configs["compressed-tensors"] = Config
    quantizers["compressed-tensors"] = quantizer


def _experts_forward(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    raise UsageError(
        'experts_implementation="moe4" is for NVFP4 checkpoints, whose experts are moe4\'s anyhow; '
        "this model's experts are not quantised"
    )


register_quantization_config("modelopt")(ModelOptConfig)
register_quantizer("modelopt")(NvFp4Quantizer)
_take_compressed_tensors()
hf_moe.ALL_EXPERTS_FUNCTIONS.register("moe4", _experts_forward)
