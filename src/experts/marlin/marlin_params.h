// What marlin's kernels are launched with.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "experts/device/packed_layer.h"
#include "experts/device/routing_tables.h"

namespace moe4::cuda {

/// One chunk of tokens of one apply(). P = num_tokens * top_k pairs.
struct MarlinParams {
  PackedLayerView layer;
  const __nv_bfloat16* x = nullptr;     ///< [T, H]; [P, H], already weighted, with weight_on_input
  const int32_t* topk_ids = nullptr;    ///< [T, k]
  const float* topk_weights = nullptr;  ///< [T, k]
  __nv_bfloat16* act = nullptr;         ///< [P, I]; rows of skipped pairs are never written
  float* y = nullptr;                   ///< [P, H]; experts structure only
  __nv_bfloat16* out = nullptr;         ///< [T, H]
  int32_t num_tokens = 0;
  int32_t num_pairs = 0;
  int32_t fc1_split = 1;          ///< warps that share the K of an FC1 step: 1, 2, 4 or 8
  uint32_t top_k_reciprocal = 0;  ///< top_k_reciprocal(top_k)
  /// Tables made by build_routing_tables() with tiles of 8; null: every block routes for itself.
  const TokenTile* tiles = nullptr;
  const int32_t* sorted_pairs = nullptr;
  const int32_t* num_tiles = nullptr;
};

/// ceil(2^32 / top_k); 0 stands for 2^32.
constexpr uint32_t top_k_reciprocal(int32_t top_k) {
  return static_cast<uint32_t>(((uint64_t{1} << 32) + top_k - 1) / top_k);
}

#if defined(__CUDACC__)
/// pair / top_k, exact for pair * top_k < 2^32.
__device__ __forceinline__ int token_of(const MarlinParams& p, int pair) {
  return p.top_k_reciprocal == 0
             ? pair
             : static_cast<int>(__umulhi(static_cast<uint32_t>(pair), p.top_k_reciprocal));
}
#endif

}  // namespace moe4::cuda
