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

/// Every block of a launch, and of the launches that follow it, must cut the same tiles: pairs are
/// sorted by expert and stay in ascending order inside one. Tiles of at most 8 pairs for all
/// `num_pairs` <= kMaxBlockPairs ids. All kThreads threads call it; the result is visible to all
/// when it returns.
template <int kThreads>
__device__ __forceinline__ TileList route_in_block(const PackedLayerView& layer, const int32_t* ids,
                                                   int num_pairs, int* shared) {
  constexpr int kTileTokens = 8;
  int* const num_tiles = shared;
  int* const warp_sums = shared + 32;
  int* const first_pair = shared + 64;  // [E]: pairs of the expert, then the first one's place
  int32_t* const pairs = first_pair + layer.num_local_experts;
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

  // A warp owns a contiguous share of the pairs and counts it apart from the others: [warp][E].
  const int experts = layer.num_local_experts;
  const int warps = block_routing_warps(num_pairs, kThreads);
  auto* const counts = reinterpret_cast<uint16_t*>(
      tiles + max_token_tiles(max(num_pairs, 256), experts, kTileTokens));
  for (int i = thread; i < (warps * experts + 1) / 2; i += kThreads) {
    reinterpret_cast<uint32_t*>(counts)[i] = 0;
  }
  __syncthreads();
  constexpr int kIdsAThread = kMaxBlockPairs / kThreads;
  const int lane = thread & 31, warp = thread >> 5;
  const int rounds = (num_pairs + warps * 32 - 1) / (warps * 32);
  uint16_t* const my_counts = counts + min(warp, warps - 1) * experts;
  int expert[kIdsAThread], place[kIdsAThread];
#pragma unroll
  for (int i = 0; i < kIdsAThread; ++i) {
    const int pair = (warp * rounds + i) * 32 + lane;
    const bool mine = warp < warps && i < rounds && pair < num_pairs;
    expert[i] = mine ? layer.local_expert(ids[pair]) : -1;
  }
#pragma unroll
  for (int i = 0; i < kIdsAThread; ++i) {
    if (warp >= warps || i >= rounds) continue;
    const unsigned same = __match_any_sync(~0u, expert[i]);
    if (expert[i] >= 0) {
      place[i] = my_counts[expert[i]] + __popc(same & ((1u << lane) - 1));
    }
    __syncwarp();
    if (expert[i] >= 0 && lane == __ffs(same) - 1) my_counts[expert[i]] += __popc(same);
    __syncwarp();
  }
  __syncthreads();

  // A run of consecutive experts a thread; pairs and tiles share one scan, 16 bits each.
  const int run = (experts + kThreads - 1) / kThreads;
  const int begin = min(thread * run, experts), end = min(begin + run, experts);
  int sum = 0;
  for (int e = begin; e < end; ++e) {
    int count = 0;
    for (int w = 0; w < warps; ++w) {
      const int share = counts[w * experts + e];
      counts[w * experts + e] = static_cast<uint16_t>(count);
      count += share;
    }
    first_pair[e] = count;
    sum += count | (((count + kTileTokens - 1) / kTileTokens) << 16);
  }
  const int before = exclusive_scan(sum, warp_sums);
  int first = before & 0xffff, tile = before >> 16;
  for (int e = begin; e < end; ++e) {
    const int count = first_pair[e];
    first_pair[e] = first;
    for (int i = 0; i < count; i += kTileTokens) {
      tiles[tile++] = {e, first + i, min(kTileTokens, count - i)};
    }
    first += count;
  }
  if (thread == kThreads - 1) *num_tiles = (before + sum) >> 16;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kIdsAThread; ++i) {
    if (expert[i] < 0) continue;
    pairs[first_pair[expert[i]] + my_counts[expert[i]] + place[i]] =
        (warp * rounds + i) * 32 + lane;
  }
  __syncthreads();
  return {tiles, pairs, *num_tiles};
}

}  // namespace moe4::cuda
