// Before the GEMMs, in one launch: pairs sorted by expert and cut into token tiles (the first
// block, or the first cluster), tokens copied in the order wgmma wants (all other blocks).
#include <cuda_bf16.h>

#include <algorithm>

#include "base/checked_math.h"
#include "base/error.h"
#include "device/cuda/block_scan.cuh"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/cluster.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "ops/experts/gpu/routing_tables.h"
#include "ops/experts/hopper/hopper_kernels.h"

namespace moe4::cuda::hopper {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kCluster = 8;      // blocks that sort together
constexpr int kMaxBlocks = 128;  // one an SM, in whole clusters
constexpr int kMaxBatch = 8;     // pairs of a thread that it keeps in registers
static_assert(kMaxLocalExperts <= kThreads, "one expert a thread");
constexpr int kLengths = max_tile_tokens(TileConfig::kLarge) / 8 + 1;
static_assert(kLengths <= 32, "one length a lane");

struct PrologueArgs {
  PackedLayerView layer;
  const int32_t* topk_ids;
  const float* topk_weights;
  const uint32_t* hidden;  // [T, H / 2] pairs of BF16
  uint32_t num_pairs;
  uint32_t num_rows;  // tokens, or pairs with weight_on_input
  int max_tile_tokens;
  Scratch scratch;
};

// ---- sorting -----------------------------------------------------------------------------------

// Tiles of one expert are equally long, in multiples of 8.
struct Tiles {
  __device__ __forceinline__ Tiles(int count, int most)
      : number(count > 0), length((count + 7) / 8 * 8) {
    if (count <= most) return;
    const int wanted = (count + most - 1) / most;
    length = ((count + wanted - 1) / wanted + 7) / 8 * 8;
    number = (count + length - 1) / length;
  }
  int number, length;
};

// Where a block's pairs of an expert go.
struct Place {
  int first;   // in the block's own order
  int offset;  // from there to the sorted list
};

// kRanks blocks sort an equal share of the pairs each, up to kBatch pairs a thread (more with
// kMaxBatch). A block counts its share, learns the others' counts and scatters its share. With more
// than a pair a thread it does so in shared memory first, so that neighbours in the sorted list are
// stored together. The order inside an expert is arbitrary: a token's result does not depend on its
// place.
//
// A call of few tokens waits for every step here, and most code runs once, as it arrives from the
// instruction cache: less code is faster.
template <int kRanks, int kBatch>
__device__ void sort_pairs(const PrologueArgs& args) {
  constexpr bool kInOrder = kBatch > 1;
  __shared__ __align__(16) int counts[kMaxLocalExperts];
  __shared__ Place places[kMaxLocalExperts];
  __shared__ int warp_sums[(1 + kInOrder) * kWarps];
  __shared__ int tiles_of_length[kLengths];
  __shared__ __align__(16) union {
    int counts[kRanks][kMaxLocalExperts];              // of every block
    uint32_t order[kInOrder ? kBatch * kThreads : 1];  // expert << 16 | pair of this share
  } shared;
  __shared__ uint64_t received;
  const int thread = threadIdx.x, lane = thread % 32;
  const uint32_t rank = blockIdx.x;
  const PackedLayerView& layer = args.layer;
  const Scratch& scratch = args.scratch;
  const int groups = (layer.num_local_experts + 3) / 4;  // of 16 bytes of counts
  const uint32_t barrier = shared_address(&received);
  counts[thread] = 0;
  if (thread < kLengths) tiles_of_length[thread] = 0;
  if (kRanks > 1) {
    if (thread == 0) {
      barrier_init(barrier, 1);
      fence_barrier_init();
      barrier_expect(barrier, kRanks * groups * 16);
    }
    __syncwarp();
    arrive_in_cluster();
  }
  const uint32_t share = (args.num_pairs + kRanks - 1) / kRanks;
  const uint32_t begin = min(rank * share, args.num_pairs);
  const uint32_t end = min(begin + share, args.num_pairs);
  const bool one_batch = kBatch < kMaxBatch || share <= kBatch * kThreads;
  int32_t experts[kBatch], ranks[kBatch];
  const auto load_experts = [&](uint32_t first) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const uint32_t pair = first + i * kThreads + thread;
      experts[i] = pair < end ? args.topk_ids[pair] : -1;
    }
    // PackedLayerView::local_expert() of each, with the loads of a map together.
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (experts[i] >= layer.num_experts) experts[i] = -1;
    }
    if (layer.expert_map != nullptr) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (experts[i] >= 0) experts[i] = layer.expert_map[experts[i]];
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (experts[i] >= layer.num_local_experts) experts[i] = -1;
    }
  };
  __syncthreads();
  wait_for_previous_kernel();
  uint32_t next = begin;
  do {
    load_experts(next);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (experts[i] >= 0) ranks[i] = atomicAdd(&counts[experts[i]], 1);
    }
    next += kBatch * kThreads;
  } while (!one_batch && next < end);
  __syncthreads();

  int before = 0, count = 0;  // pairs of this thread's expert in earlier shares and in all
  const int own = counts[thread];
  if constexpr (kRanks > 1) {
    constexpr int kThreadsPerRank = kThreads / kRanks;
    const int to = thread / kThreadsPerRank;
    wait_for_cluster();  // barriers of all blocks are there
#pragma unroll 1
    for (int group = thread % kThreadsPerRank; group < groups; group += kThreadsPerRank) {
      const uint32_t there = shared_address(&shared.counts[rank][group * 4]);
      store_in_cluster16(address_in_block(there, to), reinterpret_cast<const int4*>(counts)[group],
                         address_in_block(barrier, to));
    }
    wait_for_cluster_stores(barrier);
    if (thread < layer.num_local_experts) {
#pragma unroll
      for (int r = 0; r < kRanks; ++r) {
        const int theirs = shared.counts[r][thread];
        if (r < rank) before += theirs;
        count += theirs;
      }
    }
  } else {
    count = own;
  }
  const Tiles tiles(count, args.max_tile_tokens);
  // Longest first, so that the GEMMs' CTAs end together (TileSource): an expert's place among those
  // of its length is arbitrary, so one block decides.
  int first_tile = 0;
  if (rank == 0 && tiles.number > 0) {
    first_tile = atomicAdd(&tiles_of_length[tiles.length / 8], tiles.number);
  }
  int starts[1 + kInOrder];
  starts[0] = (count + 7) / 8 * 8;
  if constexpr (kInOrder) starts[1] = own;
  exclusive_scans<kWarps>(starts, warp_sums);
  const int first_position = starts[0];
  const int first_place = kInOrder ? starts[kInOrder] : 0;
  places[thread] = {first_place, first_position + before - first_place};
  __syncthreads();

  if (one_batch) {
    int positions[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      positions[i] = -1;
      if (experts[i] < 0) continue;
      const Place place = places[experts[i]];
      const int at = place.first + ranks[i];
      positions[i] = at + place.offset;
      if constexpr (kInOrder) {
        shared.order[at] = static_cast<uint32_t>(experts[i]) << 16 | (i * kThreads + thread);
      } else {
        scratch.sorted_pairs[positions[i]] = static_cast<int32_t>(begin + thread);
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const uint32_t pair = begin + i * kThreads + thread;
      if (pair < end) scratch.positions_of_pairs[pair] = positions[i];
    }
    if constexpr (kInOrder) {
      const int sorted = __reduce_add_sync(~0u, warp_sums[kWarps + lane]);
      __syncthreads();
      uint32_t words[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int place = i * kThreads + thread;
        words[i] = place < sorted ? shared.order[place] : 0u;
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int place = i * kThreads + thread;
        const int position = place + places[words[i] >> 16].offset;
        if (place < sorted) {
          scratch.sorted_pairs[position] = static_cast<int32_t>(begin + (words[i] & 0xffff));
        }
      }
    }
  } else if constexpr (kBatch == kMaxBatch) {
    for (uint32_t first = begin; first < end; first += kBatch * kThreads) {
      load_experts(first);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const uint32_t pair = first + i * kThreads + thread;
        int position = -1;
        if (experts[i] >= 0) {
          Place& place = places[experts[i]];
          position = atomicAdd(&place.first, 1) + place.offset;
          scratch.sorted_pairs[position] = static_cast<int32_t>(pair);
        }
        if (pair < end) scratch.positions_of_pairs[pair] = position;
      }
    }
  }

  if (rank > 0) return;
  const int of_length = lane < kLengths ? tiles_of_length[lane] : 0;
  int at_least = of_length;  // tiles at least as long as the lane's
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_down_sync(~0u, at_least, distance);
    if (lane + distance < 32) at_least += other;
  }
  first_tile += __shfl_sync(~0u, at_least - of_length, tiles.length / 8);
#pragma unroll 1
  for (int i = 0; i < tiles.number; ++i) {
    const int skip = i * tiles.length;
    scratch.stored_of_tokens[first_tile + i] = 0;
    scratch.tiles[first_tile + i] =
        make_token_tile(thread, first_position + skip, min(tiles.length, count - skip));
  }
  if (thread == 0) {
    *scratch.num_tiles = at_least;
    *scratch.taken = *scratch.stored = 0;
  }
}

// Two BF16 times a routing weight, rounded to BF16 again.
__device__ __forceinline__ uint32_t weigh(uint32_t pair, float weight) {
  const __nv_bfloat162 v = reinterpret_cast<const __nv_bfloat162&>(pair);
  const __nv_bfloat162 weighed =
      __floats2bfloat162_rn(__low2float(v) * weight, __high2float(v) * weight);
  return reinterpret_cast<const uint32_t&>(weighed);
}

// 16 bytes a thread: unit u of a chunk holds words u, 8 + u, 16 + u, 24 + u
// (grouped_gemms_sm90.cu). Columns past H become zeros. Units are fewer than 2^31: slices of a
// batch are (hopper_layer.cc).
template <int kRanks>
__device__ void permute_tokens(const PrologueArgs& args) {
  constexpr int kUnits = 4;  // whose words are on their way together
  const PackedLayerView& layer = args.layer;
  const uint32_t units_per_row = args.scratch.hidden_steps * 16;
  const int words_per_row = layer.hidden_size / 2;
  const uint32_t stride = (gridDim.x - kRanks) * kThreads;
  const uint32_t row_step = stride / units_per_row;
  const uint32_t unit_step = stride - row_step * units_per_row;
  const uint32_t start = (blockIdx.x - kRanks) * kThreads + threadIdx.x;
  uint32_t row = start / units_per_row, unit = start - row * units_per_row;
  uint4* destination = static_cast<uint4*>(args.scratch.hidden) + start;
  wait_for_previous_kernel();
  while (row < args.num_rows) {
    uint32_t words[kUnits][4], rows[kUnits];
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const bool inside = row < args.num_rows;
      const int64_t token = layer.weight_on_input ? row / layer.top_k : row;
      const int first = static_cast<int>(unit / 8 * 32 + unit % 8);
      const uint32_t* source = args.hidden + token * words_per_row + first;
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        words[i][t] = inside && first + 8 * t < words_per_row ? source[8 * t] : 0u;
      }
      rows[i] = row;
      row += row_step;
      unit += unit_step;
      if (unit >= units_per_row) {
        unit -= units_per_row;
        ++row;
      }
    }
    // Apart from the loads: even where it is not wanted it would wait for them one by one.
    if (layer.weight_on_input) {
#pragma unroll
      for (int i = 0; i < kUnits; ++i) {
        const float weight = rows[i] < args.num_rows ? args.topk_weights[rows[i]] : 0.0f;
#pragma unroll
        for (int t = 0; t < 4; ++t) words[i][t] = weigh(words[i][t], weight);
      }
    }
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      if (rows[i] < args.num_rows) {
        destination[int64_t{i} * stride] =
            make_uint4(words[i][0], words[i][1], words[i][2], words[i][3]);
      }
    }
    destination += int64_t{kUnits} * stride;
  }
}

template <int kRanks, int kBatch>
__global__ __cluster_dims__(kRanks)
    __launch_bounds__(kThreads, 1) void prologue_kernel(const __grid_constant__ PrologueArgs args) {
  launch_dependents();
  if (blockIdx.x < kRanks) {
    sort_pairs<kRanks, kBatch>(args);
  } else {
    permute_tokens<kRanks>(args);
  }
}

template <int kRanks, int kBatch>
void launch_with(const PrologueArgs& args, cudaStream_t stream) {
  const int64_t units = int64_t{args.num_rows} * args.scratch.hidden_steps * 16;
  const int64_t copying =
      std::clamp<int64_t>(ceil_div(units, int64_t{kThreads} * kRanks), 1, kMaxBlocks / kRanks - 1);
  launch(prologue_kernel<kRanks, kBatch>,
         {.grid = dim3(static_cast<unsigned>(kRanks * (1 + copying))),
          .block = dim3(kThreads),
          .stream = stream,
          .dependent = true},
         args);
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
      .num_pairs = static_cast<uint32_t>(pairs),
      .num_rows = static_cast<uint32_t>(layer.weight_on_input ? pairs : call.num_tokens),
      .max_tile_tokens = max_tile_tokens(call.config),
      .scratch = call.scratch,
  };
  // Each form as far as it is the fastest (H200); the last takes any number.
  if (pairs <= kThreads) return launch_with<1, 1>(args, stream);
  if (pairs <= kCluster * kThreads) return launch_with<kCluster, 1>(args, stream);
  if (pairs <= 4 * kCluster * kThreads) return launch_with<kCluster, 4>(args, stream);
  launch_with<kCluster, kMaxBatch>(args, stream);
}

}  // namespace moe4::cuda::hopper
