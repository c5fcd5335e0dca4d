// Launchers of marlin's kernels, one a .cu file.
#pragma once

#include <cuda_runtime_api.h>

#include "experts/marlin/marlin_params.h"

namespace moe4::cuda {

inline constexpr int kTokenTile = 8;  ///< tokens that share one decode of a weight

/// Blocks that fit the current device at once, and raised shared-memory limits. Called in
/// prepare().
int fc1_blocks();
int fc2_expert_blocks();
void allow_expert_shared_memory();
void allow_row_shared_memory();

/// act[pair] = activation(gate, up) for every routed pair.
void launch_fc1(const MarlinParams& params, int blocks, cudaStream_t stream, bool dependent);

/// y[pair] = W2 act[pair] * alpha + bias, tiles of (expert, 32 rows) spread over all warps.
void launch_fc2_experts(const MarlinParams& params, int blocks, cudaStream_t stream,
                        bool dependent);

/// out[t] = sum over slots in order of weight * y[pair].
void launch_combine(const MarlinParams& params, cudaStream_t stream, bool dependent);

/// Both of the above in one kernel for few pairs: a block owns 16 output rows of all experts.
void launch_fc2_rows(const MarlinParams& params, int blocks, cudaStream_t stream, bool dependent);
size_t fc2_rows_shared_bytes(const PackedLayerView& layer, int64_t num_pairs);

/// scaled[pair] = bf16(x[token] * weight[pair]), for weight_on_input.
void launch_scale_input(const MarlinParams& params, const __nv_bfloat16* x, __nv_bfloat16* scaled,
                        cudaStream_t stream);

}  // namespace moe4::cuda
