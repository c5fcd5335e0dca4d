// Host-visible limits of block_routing.cuh.
#pragma once

#include <cstdint>

#include "numerics/host_device.h"
#include "ops/experts/gpu/routing_tables.h"

namespace moe4::cuda {

inline constexpr int kMaxBlockPairs = 2048;
/// Up to here one warp does it, with bit masks of pairs: 8 tokens of top 8 and shared experts.
inline constexpr int kMaxWarpPairs = 96;
inline constexpr int kTileTokens = 8;

/// Entries of the list of pairs; one warp leaves gaps in it.
MOE4_HOST_DEVICE constexpr int64_t block_pair_slots(int64_t num_pairs) {
  return num_pairs <= kMaxWarpPairs ? num_pairs * kTileTokens : num_pairs;
}

/// Shared memory of route_in_block().
constexpr int64_t block_routing_bytes(int64_t num_pairs, int64_t num_local_experts) {
  return 4 * (64 + 2 * num_local_experts + block_pair_slots(num_pairs) + 2 * num_pairs) +
         static_cast<int64_t>(sizeof(TokenTile)) *
             max_token_tiles(num_pairs, num_local_experts, kTileTokens);
}

}  // namespace moe4::cuda
