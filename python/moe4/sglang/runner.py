"""moe4's layer as one of SGLang's MoE runners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.layers.moe.moe_runner.base import DispatchMoeRunnerCore, MoeQuantInfo, MoeRunnerConfig
from sglang.srt.layers.moe.token_dispatcher.standard import StandardCombineInput
from sglang.srt.layers.moe.utils import MoeRunnerBackendLike

import moe4
import moe4.torch


@dataclass
class Moe4QuantInfo(MoeQuantInfo):
    """A layer that is packed, and its number for moe4's operators."""

    experts: moe4.Experts
    layer: int


class Moe4RunnerCore(DispatchMoeRunnerCore):
    """Permutes, computes and sums up in one call; inputs and outputs are BF16 or float16."""

    def __init__(self, config: MoeRunnerConfig) -> None:
        super().__init__(config)
        method = getattr(config.layer, "quant_method", None)
        if not getattr(method, "is_moe4", False):
            raise moe4.UnavailableError(
                f"--moe-runner-backend moe4 runs ModelOpt's NVFP4 experts; those of layer {config.layer_id} are "
                f"{type(method).__name__}'s: leave the option out"
            )

    @property
    def runner_backend(self) -> MoeRunnerBackendLike:
        return self.config.layer.quant_method.get_moe_runner_backend(self.config.layer)

    def run_from_dispatch(
        self, dispatch_output: Any, quant_info: Moe4QuantInfo, runner_config: MoeRunnerConfig, hooks: Any = None
    ) -> StandardCombineInput:
        x, topk = dispatch_output.hidden_states, dispatch_output.topk_output
        out = torch.empty_like(x)
        # Of other ranks' experts the dispatcher has made -1, which adds nothing.
        torch.ops.moe4.experts_out(x, topk.topk_ids, topk.topk_weights.float(), quant_info.layer, out)
        return StandardCombineInput(hidden_states=out)
