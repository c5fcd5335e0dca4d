// Before the GEMMs, in one launch: pairs sorted by expert and cut into token tiles (the first
// cluster), tokens copied in the order wgmma wants (all other blocks).
#include <cooperative_groups.h>
#include <cuda_bf16.h>

#include <algorithm>

#include "base/checked_math.h"
#include "base/error.h"
#include "experts/device/block_scan.cuh"
#include "experts/device/launch.h"
#include "experts/device/memory.cuh"
#include "experts/device/routing_tables.h"
#include "experts/hopper/hopper_kernels.h"

namespace moe4::cuda::hopper {
namespace {

constexpr int kThreads = 1024;
constexpr int kCluster = 8;  // blocks that sort
static_assert(kMaxLocalExperts <= kThreads, "one expert a thread");
constexpr int kMaxTileLength = max_tile_tokens(TileConfig::kLarge);

struct PrologueArgs {
  PackedLayerView layer;
  const int32_t* topk_ids;
  const float* topk_weights;
  const uint32_t* hidden;  // [T, H / 2] pairs of BF16
  int64_t num_pairs;
  int64_t num_rows;  // tokens, or pairs with weight_on_input
  int max_tile_tokens;
  Scratch scratch;
};

// Each block of the cluster counts its share of the pairs, reads the others' counts from their
// shared memory, and scatters its share. The order inside an expert is arbitrary: a token's result
// does not depend on its place.
__device__ void sort_pairs(const PrologueArgs& args) {
  __shared__ int counts[kMaxLocalExperts];
  __shared__ int cursors[kMaxLocalExperts];
  __shared__ int warp_sums[kThreads / 32];
  __shared__ int tiles_of_length[kMaxTileLength / 8 + 1];
  auto cluster = cooperative_groups::this_cluster();
  const int thread = threadIdx.x;
  const int rank = blockIdx.x;
  const PackedLayerView& layer = args.layer;
  const Scratch& scratch = args.scratch;
  const bool mine = thread < layer.num_local_experts;
  if (mine) counts[thread] = 0;
  if (thread <= kMaxTileLength / 8) tiles_of_length[thread] = 0;
  __syncthreads();
  const int64_t begin = args.num_pairs * rank / kCluster;
  const int64_t end = args.num_pairs * (rank + 1) / kCluster;
  // A thread loads the ids of its pairs kBatch at a time. If that is all of them, the second pass
  // knows their ranks in this block from the first.
  constexpr int kBatch = 16;
  const bool one_batch = end - begin <= kBatch * kThreads;
  int32_t experts[kBatch], ranks[kBatch];
  const auto load_experts = [&](int64_t first) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      experts[i] = -1;
      if (first + i * kThreads >= end) continue;
      const int64_t pair = first + thread + i * kThreads;
      experts[i] = pair < end ? args.topk_ids[pair] : -1;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i * kThreads < end) experts[i] = layer.local_expert(experts[i]);
    }
  };
  for (int64_t first = begin; first < end; first += kBatch * kThreads) {
    load_experts(first);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i * kThreads >= end) break;
      if (experts[i] >= 0) ranks[i] = atomicAdd(&counts[experts[i]], 1);
    }
  }
  cluster.sync();
  int before = 0, count = 0;
  if (mine) {
#pragma unroll
    for (int r = 0; r < kCluster; ++r) {
      const int theirs = cluster.map_shared_rank(counts, r)[thread];
      if (r < rank) before += theirs;
      count += theirs;
    }
  }
  // Tiles of one expert are equally long, in multiples of 8.
  const int wanted = (count + args.max_tile_tokens - 1) / args.max_tile_tokens;
  const int length = wanted == 0 ? 8 : ((count + wanted - 1) / wanted + 7) / 8 * 8;
  const int tiles = (count + length - 1) / length;
  // Longest first, so that the GEMMs' CTAs end together (TileSource): an expert's place among
  // those of its length is arbitrary, so one block decides.
  int first_tile = tiles > 0 ? atomicAdd(&tiles_of_length[length / 8], tiles) : 0;
  const int first_position = exclusive_scan((count + 7) / 8 * 8, warp_sums);
  int all_tiles = 0;
#pragma unroll 4
  for (int i = 1; i <= kMaxTileLength / 8; ++i) {
    const int of_length = tiles_of_length[i];
    all_tiles += of_length;
    if (i > length / 8) first_tile += of_length;
  }
  if (mine) cursors[thread] = first_position + before;
  __syncthreads();
  for (int64_t first = begin; first < end; first += kBatch * kThreads) {
    if (!one_batch) load_experts(first);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i * kThreads >= end) break;
      const int64_t pair = first + thread + i * kThreads;
      int position = -1;
      if (experts[i] >= 0) {
        int* cursor = &cursors[experts[i]];
        position = one_batch ? *cursor + ranks[i] : atomicAdd(cursor, 1);
        scratch.sorted_pairs[position] = static_cast<int32_t>(pair);
      }
      if (pair < end) scratch.positions_of_pairs[pair] = position;
    }
  }
  if (mine && rank == 0) {
    for (int i = 0; i < tiles; ++i) {
      scratch.tiles[first_tile + i] = {first_position + i * length, static_cast<uint16_t>(thread),
                                       static_cast<uint16_t>(min(length, count - i * length))};
    }
    if (thread == 0) *scratch.num_tiles = all_tiles;
  }
  if (rank == 0 && thread < 2) scratch.taken[thread] = 0;
  cluster.sync();  // nobody leaves while its counts are being read
}

// Two BF16 times a routing weight, rounded to BF16 again.
__device__ __forceinline__ uint32_t weigh(uint32_t pair, float weight) {
  const __nv_bfloat162 v = reinterpret_cast<const __nv_bfloat162&>(pair);
  const __nv_bfloat162 weighed =
      __floats2bfloat162_rn(__low2float(v) * weight, __high2float(v) * weight);
  return reinterpret_cast<const uint32_t&>(weighed);
}

// 16 bytes a thread: unit u of a chunk holds words u, 8 + u, 16 + u, 24 + u
// (grouped_gemm_sm90.cuh). Columns past H become zeros. Units are fewer than 2^31: slices of a
// batch are (hopper_layer.cc).
__device__ void permute_tokens(const PrologueArgs& args) {
  constexpr int kBatch = 4;  // units whose words are on their way together
  const PackedLayerView& layer = args.layer;
  const uint32_t units_per_row = args.scratch.hidden_steps * 16;
  const int words_per_row = layer.hidden_size / 2;
  const uint32_t units = static_cast<uint32_t>(args.num_rows) * units_per_row;
  const uint32_t stride = (gridDim.x - kCluster) * kThreads;
  for (uint32_t start = (blockIdx.x - kCluster) * kThreads + threadIdx.x; start < units;
       start += kBatch * stride) {
    uint32_t words[kBatch][4];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const uint32_t index = start + i * stride;
      const uint32_t row = index / units_per_row;
      const int unit = static_cast<int>(index - row * units_per_row);
      const int64_t token = layer.weight_on_input ? row / layer.top_k : row;
      const uint32_t* source = args.hidden + token * words_per_row;
      const int first = unit / 8 * 32 + unit % 8;
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        const int word = first + 8 * t;
        words[i][t] = index < units && word < words_per_row ? source[word] : 0u;
        if (layer.weight_on_input && index < units) {
          words[i][t] = weigh(words[i][t], args.topk_weights[row]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const uint32_t index = start + i * stride;
      if (index >= units) break;
      static_cast<uint4*>(args.scratch.hidden)[index] =
          make_uint4(words[i][0], words[i][1], words[i][2], words[i][3]);
    }
  }
}

__global__ __cluster_dims__(kCluster)
    __launch_bounds__(kThreads, 1) void prologue_kernel(const __grid_constant__ PrologueArgs args) {
  launch_dependents();
  wait_for_previous_kernel();
  if (blockIdx.x < kCluster) {
    sort_pairs(args);
  } else {
    permute_tokens(args);
  }
}

}  // namespace

void launch_prologue(const Call& call, cudaStream_t stream) {
  const PackedLayerView& layer = call.layer;
  const int64_t pairs = call.num_tokens * layer.top_k;
  MOE4_CHECK(layer.num_local_experts >= 1 && layer.num_local_experts <= kMaxLocalExperts);
  const PrologueArgs args = {
      .layer = layer,
      .topk_ids = call.topk_ids,
      .topk_weights = call.topk_weights,
      .hidden = static_cast<const uint32_t*>(call.hidden_states),
      .num_pairs = pairs,
      .num_rows = layer.weight_on_input ? pairs : call.num_tokens,
      .max_tile_tokens = max_tile_tokens(call.config),
      .scratch = call.scratch,
  };
  const int64_t units = args.num_rows * call.scratch.hidden_steps * 16;
  const int64_t clusters = std::clamp<int64_t>(ceil_div(units, kThreads * kCluster), 1, 15);
  launch(prologue_kernel,
         {.grid = dim3(static_cast<unsigned>(kCluster * (1 + clusters))),
          .block = dim3(kThreads),
          .stream = stream,
          .dependent = true},
         args);
}

}  // namespace moe4::cuda::hopper
