// Host-visible limits of block_routing.cuh.
#pragma once

#include <cstdint>

#include "experts/device/routing_tables.h"

namespace moe4::cuda {

inline constexpr int kMaxBlockPairs = 2048;

/// Shared memory of route_in_block().
constexpr int64_t block_routing_bytes(int64_t num_pairs, int64_t num_local_experts) {
  const int64_t pairs = num_pairs < 256 ? 256 : num_pairs;  // the one-warp path spaces tiles by 8
  return 4 * (64 + num_local_experts + pairs) +
         static_cast<int64_t>(sizeof(TokenTile)) * max_token_tiles(pairs, num_local_experts, 8);
}

}  // namespace moe4::cuda
