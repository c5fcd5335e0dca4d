// Routing of a small batch inside one thread block's shared memory: every block of a kernel does it
// for itself in its prologue, which costs less than a launch.
#pragma once

#include <cstdint>

#include "experts/device/block_routing_limits.h"
#include "experts/device/block_scan.cuh"
#include "experts/device/packed_layer.h"

namespace moe4::cuda {

/// Token tiles and the pairs they point into; shared or global memory.
struct TileList {
  const TokenTile* tiles;
  const int32_t* pairs;
  int num_tiles;
};

/// Tiles of at most 8 pairs for all `num_pairs` <= kMaxBlockPairs ids. All kThreads threads call
/// it; the result is visible to all when it returns.
template <int kThreads>
__device__ __forceinline__ TileList route_in_block(const PackedLayerView& layer, const int32_t* ids,
                                                   int num_pairs, int* shared) {
  constexpr int kTileTokens = 8;
  int* const num_tiles = shared;
  int* const warp_sums = shared + 32;
  int* const counts = shared + 64;
  int32_t* const pairs = counts + layer.num_local_experts;
  auto* const tiles = reinterpret_cast<TokenTile*>(pairs + max(num_pairs, 256));
  const int thread = threadIdx.x;

  if (num_pairs <= 32) {
    if (thread < 32) {
      const int expert = thread < num_pairs ? layer.local_expert(ids[thread]) : -1;
      const unsigned same = __match_any_sync(~0u, expert);
      const int count = __popc(same), leader = __ffs(same) - 1;
      const unsigned leaders = __ballot_sync(~0u, expert >= 0 && leader == thread);
      const bool crowded = __any_sync(~0u, expert >= 0 && count > kTileTokens);
      if (expert >= 0 && !crowded) {
        const int tile = __popc(leaders & ((1u << leader) - 1));
        pairs[tile * kTileTokens + __popc(same & ((1u << thread) - 1))] = thread;
        if (leader == thread) tiles[tile] = {expert, tile * kTileTokens, count};
      }
      if (thread == 0) *num_tiles = crowded ? -1 : __popc(leaders);
    }
    __syncthreads();
    if (*num_tiles >= 0) return {tiles, pairs, *num_tiles};
    __syncthreads();
  }

  constexpr int kIdsAThread = kMaxBlockPairs / kThreads;
  int expert[kIdsAThread], place[kIdsAThread];
#pragma unroll
  for (int i = 0; i < kIdsAThread; ++i) {
    const int pair = thread + i * kThreads;
    expert[i] = pair < num_pairs ? layer.local_expert(ids[pair]) : -1;
  }
  for (int e = thread; e < layer.num_local_experts; e += kThreads) counts[e] = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kIdsAThread; ++i) {
    if (expert[i] >= 0) place[i] = atomicAdd(&counts[expert[i]], 1);
  }
  __syncthreads();

  // A run of consecutive experts a thread; pairs and tiles share one scan, 16 bits each.
  const int run = (layer.num_local_experts + kThreads - 1) / kThreads;
  const int begin = min(thread * run, layer.num_local_experts);
  const int end = min(begin + run, layer.num_local_experts);
  int sum = 0;
  for (int e = begin; e < end; ++e) {
    sum += counts[e] | (((counts[e] + kTileTokens - 1) / kTileTokens) << 16);
  }
  const int before = exclusive_scan(sum, warp_sums);
  int first = before & 0xffff, tile = before >> 16;
  for (int e = begin; e < end; ++e) {
    const int count = counts[e];
    counts[e] = first;
    for (int i = 0; i < count; i += kTileTokens) {
      tiles[tile++] = {e, first + i, min(kTileTokens, count - i)};
    }
    first += count;
  }
  if (thread == kThreads - 1) *num_tiles = (before + sum) >> 16;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kIdsAThread; ++i) {
    if (expert[i] >= 0) pairs[counts[expert[i]] + place[i]] = thread + i * kThreads;
  }
  __syncthreads();
  return {tiles, pairs, *num_tiles};
}

}  // namespace moe4::cuda
