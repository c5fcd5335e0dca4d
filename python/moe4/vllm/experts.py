"""moe4's layer as vLLM's modular experts kernel."""

from __future__ import annotations

from typing import Any

import torch
from vllm.logger import init_logger
from vllm.model_executor.layers.fused_moe import modular_kernel as mk
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.topk_weight_and_reduce import TopKWeightAndReduceNoOP
from vllm.platforms import current_platform

import moe4
import moe4.torch

logger = init_logger("vllm.moe4")

#: vLLM's activations, whose gate and up are packed one after the other, as moe4 calls them.
ACTIVATIONS = {
    MoEActivation.SILU: "silu",
    MoEActivation.GELU_TANH: "gelu_tanh",
    MoEActivation.SWIGLUOAI_UNINTERLEAVE: "swigluoai",
    MoEActivation.RELU2_NO_MUL: "relu2",
}


def device_index() -> int:
    """moe4's number of this process's device."""
    return torch.cuda.current_device() if current_platform.is_cuda() else -1


class Moe4Experts(mk.FusedMoEExpertsModular):
    """Permutes, computes and sums up in one call; inputs and outputs are BF16 or float16."""

    experts: moe4.Experts
    layer: int

    def take(self, experts: moe4.Experts) -> None:
        """The layer that it calls from now on."""
        self.experts, self.layer = experts, moe4.torch.register(experts)

    @staticmethod
    def activation_format() -> mk.FusedMoEActivationFormat:
        return mk.FusedMoEActivationFormat.Standard

    @staticmethod
    def _supports_current_device() -> bool:
        return current_platform.is_cuda() or current_platform.is_cpu()

    @staticmethod
    def _supports_no_act_and_mul() -> bool:
        return True

    @staticmethod
    def _supports_quant_scheme(weight_key: Any, activation_key: Any) -> bool:
        from vllm.model_executor.layers.quantization.utils.quant_utils import kNvfp4Dynamic, kNvfp4Static

        return weight_key == kNvfp4Static and activation_key in (None, kNvfp4Dynamic)

    @staticmethod
    def _supports_activation(activation: MoEActivation) -> bool:
        return activation in ACTIVATIONS

    @staticmethod
    def _supports_parallel_config(moe_parallel_config: Any) -> bool:
        return not moe_parallel_config.use_batched_activation_format

    @staticmethod
    def _supports_batch_invariance() -> bool:
        return True

    @property
    def expects_unquantized_inputs(self) -> bool:
        return True

    def supports_expert_map(self) -> bool:
        return True

    def supports_chunking(self) -> bool:
        return False

    def finalize_weight_and_reduce_impl(self) -> mk.TopKWeightAndReduce:
        return TopKWeightAndReduceNoOP()

    def workspace_shapes(
        self,
        M: int,
        N: int,
        K: int,
        topk: int,
        global_num_experts: int,
        local_num_experts: int,
        expert_tokens_meta: Any,
        activation: MoEActivation,
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        # workspace13 and the output share memory, so all scratch is workspace2. On a CPU the operator has its own.
        if self.experts.device < 0:
            return (0,), (0,), (M, K)
        size = self.experts.workspace_size(M, str(self.moe_config.in_dtype).removeprefix("torch."))
        return (0,), (-(-size // self.moe_config.in_dtype.itemsize),), (M, K)

    def apply(
        self,
        output: torch.Tensor,
        hidden_states: torch.Tensor,
        w1: torch.Tensor,
        w2: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        activation: MoEActivation,
        global_num_experts: int,
        expert_map: torch.Tensor | None,
        a1q_scale: torch.Tensor | None,
        a2_scale: torch.Tensor | None,
        workspace13: torch.Tensor,
        workspace2: torch.Tensor,
        expert_tokens_meta: Any,
        apply_router_weight_on_input: bool,
    ) -> None:
        if apply_router_weight_on_input:  # prepare() has multiplied
            topk_weights = torch.ones_like(topk_weights)
        on_gpu = self.experts.device >= 0
        torch.ops.moe4.experts_out(
            hidden_states,
            topk_ids,
            topk_weights.float(),
            self.layer,
            output,
            workspace=workspace2.view(torch.uint8) if on_gpu else None,
            expert_map=expert_map,
        )
