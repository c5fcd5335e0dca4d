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

/// At most kMaxWarpPairs pairs, by one warp, two of them a lane; the number of tiles. The list of
/// pairs has gaps: tile i starts at 8 i.
__device__ __forceinline__ int route_in_warp(const PackedLayerView& layer, const int32_t* ids,
                                             int num_pairs, int32_t* pairs, TokenTile* tiles) {
  const int lane = threadIdx.x;
  int expert[2];
  uint64_t same[2];  // pairs of the same expert
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int pair = lane + 32 * i;
    expert[i] = pair < num_pairs ? layer.local_expert(ids[pair]) : -1;
  }
  const uint64_t valid = __ballot_sync(~0u, expert[0] >= 0) |
                         static_cast<uint64_t>(__ballot_sync(~0u, expert[1] >= 0)) << 32;
  same[0] = same[1] = valid;
  static_assert(kMaxLocalExperts == 1 << 10);
#pragma unroll
  for (int bit = 0; bit < 10; ++bit) {
    const uint64_t ones = __ballot_sync(~0u, expert[0] >> bit & 1) |
                          static_cast<uint64_t>(__ballot_sync(~0u, expert[1] >> bit & 1)) << 32;
#pragma unroll
    for (int i = 0; i < 2; ++i) same[i] &= expert[i] >> bit & 1 ? ones : ~ones;
  }
  int rank[2];
  bool leads[2];  // a tile
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint64_t below = (uint64_t{1} << (lane + 32 * i)) - 1;
    rank[i] = __popcll(same[i] & below);
    leads[i] = expert[i] >= 0 && rank[i] % kTileTokens == 0;
  }
  const uint64_t leaders =
      __ballot_sync(~0u, leads[0]) | static_cast<uint64_t>(__ballot_sync(~0u, leads[1])) << 32;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (expert[i] < 0) continue;
    uint64_t from_leader = same[i];
    for (int skip = rank[i] / kTileTokens * kTileTokens; skip > 0; --skip) {
      from_leader &= from_leader - 1;
    }
    const uint64_t leader = from_leader & -from_leader;
    const int tile = __popcll(leaders & (leader - 1));
    pairs[tile * kTileTokens + rank[i] % kTileTokens] = lane + 32 * i;
    if (leads[i]) {
      tiles[tile] = {expert[i], tile * kTileTokens, min(kTileTokens, __popcll(from_leader))};
    }
  }
  return __popcll(leaders);
}

/// Every block of a launch, and of the launches that follow it, must cut the same tiles: pairs are
/// grouped by expert and stay in ascending order inside one that has several tiles. Tiles of at
/// most 8 pairs for all `num_pairs` <= kMaxBlockPairs ids. All kThreads threads call it; the result
/// is visible to all when it returns.
template <int kThreads>
__device__ __forceinline__ TileList route_in_block(const PackedLayerView& layer, const int32_t* ids,
                                                   int num_pairs, int* shared) {
  const int experts = layer.num_local_experts, thread = threadIdx.x;
  int* const num_tiles = shared;
  int* const warp_sums = shared + 32;
  int* const counts = shared + 64;           // [E]
  int* const first_pair = counts + experts;  // [E]
  int32_t* const pairs = first_pair + experts;
  auto* const tiles = reinterpret_cast<TokenTile*>(pairs + block_pair_slots(num_pairs));

  if (num_pairs <= kMaxWarpPairs) {
    if (thread < 32) *num_tiles = route_in_warp(layer, ids, num_pairs, pairs, tiles);
    __syncthreads();
    return {tiles, pairs, *num_tiles};
  }

  int* const slots = reinterpret_cast<int*>(
      tiles + max_token_tiles(num_pairs, experts, kTileTokens));  // [P]: expert, place << 16; or -1
  for (int e = thread; e < experts; e += kThreads) counts[e] = 0;
  __syncthreads();
  constexpr int kBatch = 4;  // ids on their way
#pragma unroll 1
  for (int first = thread; first < num_pairs; first += kBatch * kThreads) {
    int expert[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int pair = first + i * kThreads;
      expert[i] = pair < num_pairs ? layer.local_expert(ids[pair]) : -1;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int pair = first + i * kThreads;
      if (pair >= num_pairs) continue;
      slots[pair] = expert[i] < 0 ? -1 : expert[i] | atomicAdd(&counts[expert[i]], 1) << 16;
    }
  }
  __syncthreads();

  // A run of consecutive experts a thread; pairs and tiles share one scan, 16 bits each.
  const int run = (experts + kThreads - 1) / kThreads;
  const int begin = min(thread * run, experts), end = min(begin + run, experts);
  int sum = 0;
  for (int e = begin; e < end; ++e) {
    sum += counts[e] | (((counts[e] + kTileTokens - 1) / kTileTokens) << 16);
  }
  const int before = exclusive_scan(sum, warp_sums);
  int first = before & 0xffff, tile = before >> 16;
  bool crowded = false;
  for (int e = begin; e < end; ++e) {
    const int count = counts[e];
    first_pair[e] = first;
    for (int i = 0; i < count; i += kTileTokens) {
      tiles[tile++] = {e, first + i, min(kTileTokens, count - i)};
    }
    first += count;
    crowded |= count > kTileTokens;
  }
  if (thread == kThreads - 1) *num_tiles = (before + sum) >> 16;
  crowded = __syncthreads_or(crowded);
  for (int pair = thread; pair < num_pairs; pair += kThreads) {
    const int slot = slots[pair];
    if (slot >= 0) pairs[first_pair[slot & 0xffff] + (slot >> 16)] = pair;
  }
  __syncthreads();
  if (!crowded) return {tiles, pairs, *num_tiles};

  // The atomics gave places in any order, which matters to experts with several tiles.
  for (int pair = thread; pair < num_pairs; pair += kThreads) {
    const int expert = slots[pair] & 0xffff;
    if (slots[pair] < 0 || counts[expert] <= kTileTokens) continue;
    const int32_t* const list = pairs + first_pair[expert];
    int place = 0;
    for (int k = 0; k < counts[expert]; ++k) place += list[k] < pair ? 1 : 0;
    slots[pair] = expert | place << 16;
  }
  __syncthreads();
  for (int pair = thread; pair < num_pairs; pair += kThreads) {
    const int slot = slots[pair];
    if (slot >= 0) pairs[first_pair[slot & 0xffff] + (slot >> 16)] = pair;
  }
  __syncthreads();
  return {tiles, pairs, *num_tiles};
}

}  // namespace moe4::cuda
