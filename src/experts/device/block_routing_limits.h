// Host-visible limits of block_routing.cuh.
#pragma once

#include <cstdint>

#include "experts/device/routing_tables.h"

namespace moe4::cuda {

inline constexpr int kMaxBlockPairs = 2048;

/// Warps of a block of `threads` that take part in sorting `num_pairs`.
constexpr int block_routing_warps(int64_t num_pairs, int threads) {
  const int64_t warps = (num_pairs + 31) / 32;
  return static_cast<int>(warps < threads / 32 ? warps : threads / 32);
}

/// Shared memory of route_in_block().
constexpr int64_t block_routing_bytes(int64_t num_pairs, int64_t num_local_experts, int threads) {
  const int64_t pairs = num_pairs < 256 ? 256 : num_pairs;  // the one-warp path spaces tiles by 8
  const int64_t counts = (block_routing_warps(num_pairs, threads) * num_local_experts + 1) / 2;
  return 4 * (64 + num_local_experts + pairs + counts) +
         static_cast<int64_t>(sizeof(TokenTile)) * max_token_tiles(pairs, num_local_experts, 8);
}

}  // namespace moe4::cuda
