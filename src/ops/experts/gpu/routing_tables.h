// Top-k ids on the device -> which (token, slot) pairs each expert of this rank serves.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "device/arena.h"
#include "ops/experts/gpu/token_tile.h"

namespace moe4::cuda {

/// Device arrays. A pair is token * top_k + slot.
struct RoutingTables {
  int32_t* expert_offsets = nullptr;  ///< [num_local_experts + 1]: first pair of each expert
  /// [num_local_experts + 1]: tiles of `tile_tokens` pairs (the last of an expert may be short)
  /// before each expert; the last entry is the number of tiles.
  int32_t* tile_offsets = nullptr;
  TokenTile* tiles = nullptr;  ///< [max_token_tiles()]: the tiles, in order of expert; or null
  /// [num_pairs]: pairs grouped by expert, in no particular order inside one (a kernel's result for
  /// a token must not depend on its place). Entries from expert_offsets[num_local_experts] on are
  /// not written.
  int32_t* sorted_pairs = nullptr;
};

struct RoutingArgs {
  const int32_t* topk_ids = nullptr;  ///< [num_pairs] on the device; -1 and foreign ids are skipped
  int64_t num_pairs = 0;              ///< below 2^31
  int32_t num_experts = 0;            ///< of the model: other ids are skipped
  int32_t num_local_experts = 0;      ///< at most kMaxLocalExperts
  const int32_t* expert_map =
      nullptr;  ///< device [num_experts] -> local index or -1; null: identity
  int32_t tile_tokens = 8;
  RoutingTables tables;
};

inline constexpr int kMaxLocalExperts = 1024;

constexpr int64_t max_token_tiles(int64_t num_pairs, int64_t num_local_experts,
                                  int64_t tile_tokens) {
  const int64_t bound = num_pairs / tile_tokens + num_local_experts;
  return bound < num_pairs ? bound : num_pairs;
}

/// With `tile_tokens` the tables get a list of tiles.
RoutingTables take_routing_tables(Arena& arena, int64_t num_pairs, int64_t num_local_experts,
                                  int64_t tile_tokens = 0);

/// One launch, no scratch memory, no host synchronisation. `dependent`: overlap with the kernel
/// before (SM90). The kernel calls launch_dependents() at its start, so a dependent successor must
/// wait_for_previous_kernel() before it reads the tables.
void build_routing_tables(const RoutingArgs& args, cudaStream_t stream, bool dependent);

}  // namespace moe4::cuda
