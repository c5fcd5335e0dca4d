// Which pairs go where, on the device: a pair's expert, the token tile of a block, and the sorting
// of a few pairs inside a block.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "moe/expert_map.h"
#include "ops/experts/b12x/kernels.h"

namespace moe4::b12x {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;

/// Local index of a pair's expert, -1 for none and for experts of other ranks.
__device__ __forceinline__ int local_expert(const TopK& top_k, int64_t pair) {
  return moe4::local_expert(__ldcg(top_k.ids + pair), top_k.expert_map, top_k.num_experts,
                            top_k.num_local_experts);
}

using cuda::TokenTile;

/// Token tile `index` of the routing tables; false for a surplus block. All threads call it.
__device__ __forceinline__ bool find_tile(const GemmArgs& args, int index, int tokens_per_tile,
                                          TokenTile& tile) {
  const int32_t* offsets = args.tables.tile_offsets;
  const int experts = args.top_k.num_local_experts;
  if (index >= __ldcg(offsets + experts)) return false;
  for (int e = threadIdx.x; e < experts; e += kThreads) {
    const int begin = __ldcg(offsets + e), end = __ldcg(offsets + e + 1);
    if (begin <= index && index < end) {
      const int first = __ldcg(args.tables.expert_offsets + e) + (index - begin) * tokens_per_tile;
      tile = cuda::make_token_tile(
          e, first, min(tokens_per_tile, __ldcg(args.tables.expert_offsets + e + 1) - first));
    }
  }
  __syncthreads();
  return true;
}

/// At most kFewPairs pairs sorted by expert, in shared memory. Every block of FC1 and FC2 comes to
/// the same order, since it depends on the ids alone.
struct FewPairs {
  int num_tiles;
  TokenTile tiles[kFewPairs];
  int pairs[kFewPairs];         ///< by position
  int positions[kFewPairs];     ///< by pair; -1 for a pair without expert
  int experts[kFewPairs];       ///< by pair
  bool starts_tile[kFewPairs];  ///< by position
};

/// A thread a pair counts the pairs before its own: two passes over at most 64 ids. All threads
/// call it.
__device__ __forceinline__ void sort_few_pairs(const TopK& top_k, FewPairs& few) {
  constexpr int kTile = tile_tokens(Path::kFewTokens);
  const int count = static_cast<int>(top_k.num_tokens) * top_k.slots;
  const int pair = threadIdx.x;
  int expert = -1, rank = 0, same = 0, position = 0;
  if (pair < count) few.experts[pair] = expert = local_expert(top_k, pair);
  __syncthreads();
  if (expert >= 0) {
    int before = 0;
    for (int other = 0; other < count; ++other) {
      const int e = few.experts[other];
      before += e >= 0 && e < expert;
      same += e == expert;
      rank += e == expert && other < pair;
    }
    position = before + rank;
    few.pairs[position] = pair;
    few.starts_tile[position] = rank % kTile == 0;
  }
  if (pair < count) few.positions[pair] = expert >= 0 ? position : -1;
  const bool starts = expert >= 0 && rank % kTile == 0;
  const int tiles = __syncthreads_count(starts);
  if (starts) {
    int index = 0;
    for (int p = 0; p < position; ++p) index += few.starts_tile[p];
    few.tiles[index] = cuda::make_token_tile(expert, position, min(kTile, same - rank));
  }
  if (threadIdx.x == 0) few.num_tiles = tiles;
  __syncthreads();
}

}  // namespace moe4::b12x
