// Routing of a small batch inside one thread block's shared memory: every block of a kernel does it
// for itself in its prologue, which costs less than a launch.
#pragma once

#include <cstdint>

#include "device/cuda/block_scan.cuh"
#include "ops/experts/gpu/block_routing_limits.h"
#include "ops/experts/gpu/packed_layer.h"

namespace moe4::cuda {

/// Token tiles and the pairs they point into; shared or global memory.
struct TileList {
  const TokenTile* tiles;
  const int32_t* pairs;
  int num_tiles;
};

__extension__ typedef unsigned __int128 Mask128;

__device__ __forceinline__ int count_bits(uint32_t mask) { return __popc(mask); }
__device__ __forceinline__ int count_bits(uint64_t mask) { return __popcll(mask); }
__device__ __forceinline__ int count_bits(Mask128 mask) {
  return __popcll(static_cast<uint64_t>(mask)) + __popcll(static_cast<uint64_t>(mask >> 64));
}

/// As many pairs as Mask has bits, by one warp; the number of tiles. The list of pairs has gaps:
/// tile i starts at 8 i.
template <typename Mask>
__device__ __forceinline__ int route_in_warp(const PackedLayerView& layer, const int32_t* ids,
                                             int num_pairs, int32_t* pairs, TokenTile* tiles) {
  // A lane's: lane, lane + 32, ...
  constexpr int kPairs = sizeof(Mask) > 8 ? kMaxWarpPairs / 32 : sizeof(Mask) / sizeof(uint32_t);
  const int lane = threadIdx.x;
  const auto ballot = [](const bool(&is)[kPairs]) {
    Mask mask = 0;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) mask |= Mask{__ballot_sync(~0u, is[i])} << (32 * i);
    return mask;
  };
  int expert[kPairs];
  bool is[kPairs];
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int pair = lane + 32 * i;
    expert[i] = pair < num_pairs ? layer.local_expert(ids[pair]) : -1;
    is[i] = expert[i] >= 0;
  }
  Mask same[kPairs];  // pairs of the same expert
  const Mask valid = ballot(is);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) same[i] = valid;
  static_assert(kMaxLocalExperts == 1 << 10);
#pragma unroll
  for (int bit = 0; bit < 10; ++bit) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) is[i] = expert[i] >> bit & 1;
    const Mask ones = ballot(is);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) same[i] &= is[i] ? ones : ~ones;
  }
  int rank[kPairs];
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    rank[i] = count_bits(same[i] & ((Mask{1} << (lane + 32 * i)) - 1));
    is[i] = expert[i] >= 0 && rank[i] % kTileTokens == 0;  // leads a tile
  }
  const Mask leaders = ballot(is);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    if (expert[i] < 0) continue;
    Mask from_leader = same[i];
#pragma unroll 1
    for (int skip = rank[i] / kTileTokens * kTileTokens; skip > 0; --skip) {
      from_leader &= from_leader - 1;
    }
    const Mask leader = from_leader & -from_leader;
    const int tile = count_bits(leaders & (leader - 1));
    pairs[tile * kTileTokens + rank[i] % kTileTokens] = lane + 32 * i;
    if (is[i]) {
      tiles[tile] =
          make_token_tile(expert[i], tile * kTileTokens, min(kTileTokens, count_bits(from_leader)));
    }
  }
  return count_bits(leaders);
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
    if (thread < 32) {
      *num_tiles = num_pairs <= 32   ? route_in_warp<uint32_t>(layer, ids, num_pairs, pairs, tiles)
                   : num_pairs <= 64 ? route_in_warp<uint64_t>(layer, ids, num_pairs, pairs, tiles)
                                     : route_in_warp<Mask128>(layer, ids, num_pairs, pairs, tiles);
    }
    __syncthreads();
    return {tiles, pairs, *num_tiles};
  }

  // No loop is unrolled: most take one turn, and code that runs once costs its fetching.
  int* const slots = reinterpret_cast<int*>(
      tiles + max_token_tiles(num_pairs, experts, kTileTokens));  // [P]: expert, place << 16; or -1
  int32_t* const unordered = slots + num_pairs;  // [P]: `pairs` before an expert's are in order
#pragma unroll 1
  for (int e = thread; e < experts; e += kThreads) counts[e] = 0;
  __syncthreads();
  constexpr int kBatch = 2;  // ids on their way
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
#pragma unroll 1
  for (int e = begin; e < end; ++e) {
    sum += counts[e] | (((counts[e] + kTileTokens - 1) / kTileTokens) << 16);
  }
  const int before = exclusive_scan<kThreads / 32>(sum, warp_sums);
  int first = before & 0xffff, tile = before >> 16;
  bool crowded = false;
#pragma unroll 1
  for (int e = begin; e < end; ++e) {
    const int count = counts[e];
    first_pair[e] = first;
#pragma unroll 1
    for (int i = 0; i < count; i += kTileTokens) {
      tiles[tile++] = make_token_tile(e, first + i, min(kTileTokens, count - i));
    }
    first += count;
    crowded |= count > kTileTokens;
  }
  if (thread == kThreads - 1) *num_tiles = (before + sum) >> 16;
  crowded = __syncthreads_or(crowded);
#pragma unroll 1
  for (int pair = thread; pair < num_pairs; pair += kThreads) {
    const int slot = slots[pair];
    if (slot >= 0) unordered[first_pair[slot & 0xffff] + (slot >> 16)] = pair;
  }
  __syncthreads();
  if (!crowded) return {tiles, unordered, *num_tiles};

    // The atomics gave places in any order, which matters to experts with several tiles.
#pragma unroll 1
  for (int pair = thread; pair < num_pairs; pair += kThreads) {
    const int slot = slots[pair];
    if (slot < 0) continue;
    const int count = counts[slot & 0xffff], at = first_pair[slot & 0xffff];
    int place = slot >> 16;
    if (count > kTileTokens) {
      place = 0;
#pragma unroll 4
      for (int k = 0; k < count; ++k) place += unordered[at + k] < pair ? 1 : 0;
    }
    pairs[at + place] = pair;
  }
  __syncthreads();
  return {tiles, pairs, *num_tiles};
}

}  // namespace moe4::cuda
