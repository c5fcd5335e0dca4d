// Questions that several backends' supports() ask in the same words.
#pragma once

#include "moe/experts.h"

namespace moe4 {

/// Rejects anything but a CUDA device of at least `min_sm`.
Support require_cuda(const ExpertsQuery& query, int min_sm);

/// Rejects weights that are not NVFP4.
Support require_nvfp4_weights(const ExpertsQuery& query);

/// Rejects weights that are neither NVFP4 nor MXFP4.
Support require_fp4_weights(const ExpertsQuery& query);

/// Rejects activations that kernels would compute wrongly: the late clamp unless `late_clamp` says
/// that the backend has it, and a limit beside a kind that has none.
Support require_activation(const ExpertsQuery& query, bool late_clamp = false);

/// Rejects sizes (of this rank's shard) that would cut a scale's block (16, MXFP4 32), and EP or TP
/// descriptions that contradict themselves.
Support require_whole_blocks(const ExpertsQuery& query);

/// prepare() of CPU backends: throws Error(kUsage) for weights that lie in GPU memory.
void require_host_weights(const MoeLayerWeights& weights, std::string_view backend);

}  // namespace moe4
