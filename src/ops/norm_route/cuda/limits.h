// What NormRoute as one kernel has room for.
#pragma once

#include <cstdint>

#include "base/checked_math.h"
#include "ops/linear/cuda/panel.h"

namespace moe4::cuda {

/// Blocks of a cluster: each has one of the eight shares of K (decode_shares()) of half of the
/// router's rows, and a warp keeps those of 16 rows in registers.
inline constexpr int kRouteClusterBlocks = 16;
inline constexpr int kRouteShares = 8;

/// Shorter rows have fewer shares.
inline constexpr int64_t kLeastRouteWidth = (kRouteShares - 1) * kPanelChunk;
/// Longer ones have so many weights that three launches are faster.
inline constexpr int64_t kMostRouteWidth = 6 * kRouteShares * kPanelChunk;

/// Chunks of a share, as kernels are made for.
constexpr int route_chunks(int64_t width) {
  return width <= 4 * kRouteShares * kPanelChunk ? 4 : 8;
}
/// Warps of a block: one for 16 rows of the half that it has.
constexpr int route_warps(int64_t num_experts) { return num_experts <= 256 ? 8 : 16; }
/// So many experts' rows fit the registers of a cluster.
constexpr int64_t most_route_experts(int64_t width) { return route_chunks(width) <= 4 ? 512 : 256; }

}  // namespace moe4::cuda
