// Counting sort of (token, slot) pairs by expert in one launch without communication between
// blocks.
//
// Block b scatters a contiguous share of the pairs. To know where its pairs go it counts *all*
// pairs itself, those before its share apart from the rest: reading a few ids more than once from
// L2 is cheaper than a second launch or a grid barrier. Positions inside a block's share are handed
// out by shared-memory atomics, so the order inside an expert is arbitrary.
#include <algorithm>

#include "base/error.h"
#include "device/cuda/block_scan.cuh"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "moe/expert_map.h"
#include "ops/experts/gpu/routing_tables.h"

namespace moe4::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kMaxBlocks = 128;

__device__ __forceinline__ int local_expert(const RoutingArgs& args, int64_t pair) {
  return moe4::local_expert(args.topk_ids[pair], args.expert_map, args.num_experts,
                            args.num_local_experts);
}

__global__ __launch_bounds__(kThreads) void routing_kernel(RoutingArgs args, int64_t share) {
  __shared__ int before[kMaxLocalExperts];  // pairs of the expert in earlier shares, then cursors
  __shared__ int rest[kMaxLocalExperts];
  __shared__ int warp_sums[kThreads / 32];
  launch_dependents();
  const int thread = threadIdx.x;
  for (int e = thread; e < args.num_local_experts; e += kThreads) before[e] = rest[e] = 0;
  wait_for_previous_kernel();
  __syncthreads();

  const int64_t begin = min(args.num_pairs, static_cast<int64_t>(blockIdx.x) * share);
  const int64_t end = min(args.num_pairs, begin + share);
  for (int64_t pair = thread; pair < args.num_pairs; pair += kThreads) {
    const int e = local_expert(args, pair);
    if (e >= 0) atomicAdd(pair < begin ? &before[e] : &rest[e], 1);
  }
  __syncthreads();

  static_assert(kMaxLocalExperts <= kThreads, "one expert a thread");
  const bool mine = thread < args.num_local_experts;
  const int count = mine ? before[thread] + rest[thread] : 0;
  const int tiles = (count + args.tile_tokens - 1) / args.tile_tokens;
  const int first_pair = exclusive_scan<kThreads / 32>(count, warp_sums);
  const int first_tile = exclusive_scan<kThreads / 32>(tiles, warp_sums);
  if (mine) {
    before[thread] += first_pair;
    if (args.tables.tiles != nullptr && thread % gridDim.x == blockIdx.x) {
      for (int i = 0; i < tiles; ++i) {
        const int skip = i * args.tile_tokens;
        args.tables.tiles[first_tile + i] =
            make_token_tile(thread, first_pair + skip, min(args.tile_tokens, count - skip));
      }
    }
    if (blockIdx.x == 0) {
      args.tables.expert_offsets[thread] = first_pair;
      args.tables.tile_offsets[thread] = first_tile;
      if (thread == args.num_local_experts - 1) {
        args.tables.expert_offsets[thread + 1] = first_pair + count;
        args.tables.tile_offsets[thread + 1] = first_tile + tiles;
      }
    }
  }
  __syncthreads();

  for (int64_t pair = begin + thread; pair < end; pair += kThreads) {
    const int e = local_expert(args, pair);
    if (e >= 0) args.tables.sorted_pairs[atomicAdd(&before[e], 1)] = static_cast<int32_t>(pair);
  }
}

}  // namespace

RoutingTables take_routing_tables(Arena& arena, int64_t num_pairs, int64_t num_local_experts,
                                  int64_t tile_tokens) {
  RoutingTables tables;
  tables.expert_offsets = arena.take<int32_t>(num_local_experts + 1);
  tables.tile_offsets = arena.take<int32_t>(num_local_experts + 1);
  if (tile_tokens > 0) {
    tables.tiles =
        arena.take<TokenTile>(max_token_tiles(num_pairs, num_local_experts, tile_tokens));
  }
  tables.sorted_pairs = arena.take<int32_t>(num_pairs);
  return tables;
}

void build_routing_tables(const RoutingArgs& args, cudaStream_t stream, bool dependent) {
  MOE4_CHECK(args.num_local_experts >= 1 && args.num_local_experts <= kMaxLocalExperts);
  MOE4_CHECK(args.num_pairs >= 0 && args.num_pairs < (int64_t{1} << 31));
  const int64_t blocks =
      std::clamp<int64_t>((args.num_pairs + kThreads - 1) / kThreads, 1, kMaxBlocks);
  const int64_t share = (args.num_pairs + blocks - 1) / blocks;
  launch(routing_kernel,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(kThreads),
          .stream = stream,
          .dependent = dependent},
         args, share);
}

}  // namespace moe4::cuda
