// Launchers of marlin's kernels, one a .cu file.
#pragma once

#include <cuda_runtime_api.h>

#include "ops/experts/marlin/marlin_params.h"

namespace moe4::cuda {

/// Row-stationary FC2 knows so many units of K.
inline constexpr int kMaxRowKUnits = 4;

/// Raise the shared-memory limits of a layer's kernels. Called in prepare(); of the parameters only
/// what does not depend on the batch is read. A limit is the kernel's, whatever layer set it last:
/// `bytes` of the expert kernels are all that a block may have, so that no layer lowers another's.
void allow_expert_shared_memory(MarlinParams params, size_t bytes);
void allow_row_shared_memory(const PackedLayerView& layer, size_t bytes);

/// act[pair] = activation(gate, up) for every routed pair.
void launch_fc1(const MarlinParams& params, cudaStream_t stream, bool dependent);

/// y[pair] = W2 act[pair] * alpha + bias, tiles of (expert, 32 rows) spread over all warps.
void launch_fc2_experts(const MarlinParams& params, cudaStream_t stream, bool dependent);

/// out[t] = sum over slots in order of weight * y[pair].
void launch_combine(const MarlinParams& params, cudaStream_t stream, bool dependent);

/// Both of the above in one kernel for few pairs: a block owns 16 output rows of all experts.
/// `shared_bytes` from fc2_rows_shared_bytes(), `bulk_copies` as in MarlinParams.
void launch_fc2_rows(const MarlinParams& params, size_t shared_bytes, cudaStream_t stream,
                     bool dependent);
size_t fc2_rows_shared_bytes(const PackedLayerView& layer, int64_t num_pairs, bool bulk_copies);

/// One token: FC1 as straight-line code, where has_one_token_kernels(), and FC2 likewise.
void launch_one_token_fc1(const MarlinParams& params, cudaStream_t stream, bool dependent);
void launch_one_token_fc2(const MarlinParams& params, cudaStream_t stream, bool dependent);
bool has_one_token_kernels(const MarlinParams& params);

/// One token of other layers, as launch_fc1() and launch_fc2_experts(). In prepare(): whether they
/// are worth it, all of FC1's blocks at once; raises the kernels' shared memory to what a block may
/// have.
bool prepare_one_token_tiles(const MarlinParams& params, int most_shared_bytes);
void launch_one_token_fc1_tiles(const MarlinParams& params, cudaStream_t stream, bool dependent);
void launch_one_token_fc2_tiles(const MarlinParams& params, cudaStream_t stream, bool dependent);

/// scaled[pair] = bf16(x[token] * weight[pair]), for weight_on_input.
void launch_scale_input(const MarlinParams& params, const __nv_bfloat16* x, __nv_bfloat16* scaled,
                        cudaStream_t stream, bool dependent);

}  // namespace moe4::cuda
