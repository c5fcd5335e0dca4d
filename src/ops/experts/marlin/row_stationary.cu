// FC2 with the top-k sum inside, for few pairs: a block owns 16 output rows of all experts.
//
//   out[t][h] = sum over slots in order of weight * (alpha_down (Wd act[pair])[h] + bias[h])
//
// The 16 warps of a block deal out the units (token tile, 256 columns) of the block's m16 tile of
// every active expert; the float32 result of a unit goes to shared memory at [unit of
// K][pair][row]. Then the block adds, for each token and row, units of K in order and slots in
// order: the same order whatever else is in the batch, with no y in global memory and no third
// launch.
//
// 512 threads, one block an SM: weights of two units (4.6 KB) in flight a warp (step_stream.cuh).
#include <type_traits>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/experts/gpu/block_routing.cuh"
#include "ops/experts/marlin/marlin_kernels.h"
#include "ops/experts/marlin/step_stream.cuh"
#include "ops/experts/marlin/work_split.cuh"

namespace moe4::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = 32 * kWarps;

// What the final sum needs of a pair.
struct PairScale {
  int expert;  // -1: skipped
  float alpha, weight;
};

__device__ __forceinline__ PairScale load_pair_scale(const MarlinParams& p, int pair) {
  const int expert = p.layer.local_expert(p.topk_ids[pair]);
  return {expert, expert < 0 ? 0.0f : p.layer.alpha_down[expert],
          p.layer.weight_on_input ? 1.0f : p.topk_weights[pair]};
}

// One unit of this warp: weights are null past the last.
struct RowUnit {
  int tile, k_unit;
  const uint8_t* weights;
  const __nv_bfloat16* row;  // of this lane's token, or null
};

// Finds a block's units: its m16 tile of an expert's weights, and a lane's part of its tokens.
template <WeightFormat Format, int kKUnits>
class UnitFinder {
 public:
  __device__ __forceinline__ UnitFinder(const MarlinParams& p, const TileList& list, int lane)
      : p_(p),
        list_(list),
        weights_(fc2_unit<Format>(p.layer, 0, blockIdx.x, 0)),
        expert_bytes_(static_cast<uint32_t>(p.layer.fc2_tiles / 2) * kKUnits * kStepBytes),
        token_(lane / 4) {}

  // The warp's first unit.
  __device__ __forceinline__ RowUnit first() const {
    const int index = static_cast<int>(threadIdx.x) / 32;
    return unit(index / kKUnits, index % kKUnits);
  }
  // The one kWarps further.
  __device__ __forceinline__ RowUnit after(const RowUnit& at) const {
    int tile = at.tile + kWarps / kKUnits, k_unit = at.k_unit;
    if constexpr (kWarps % kKUnits != 0) {
      k_unit += kWarps % kKUnits;
      if (k_unit >= kKUnits) {
        k_unit -= kKUnits;
        ++tile;
      }
    }
    return unit(tile, k_unit);
  }

 private:
  __device__ __forceinline__ RowUnit unit(int tile_index, int k_unit) const {
    RowUnit unit{tile_index, k_unit, nullptr, nullptr};
    if (tile_index >= list_.num_tiles) return unit;
    const TokenTile tile = list_.tiles[tile_index];
    unit.weights = weights_ + uint64_t{expert_bytes_} * static_cast<uint32_t>(tile.expert) +
                   k_unit * kStepBytes;
    if (token_ < tile.count) {
      const int pair = list_.pairs[tile.first + token_];
      unit.row = p_.act + static_cast<int64_t>(pair) * p_.layer.intermediate_size;
    }
    return unit;
  }

  static constexpr int kStepBytes = UnitLayout<Format>::kStepBytes;
  const MarlinParams& p_;
  const TileList& list_;
  const uint8_t* const weights_;  // of expert 0
  const uint32_t expert_bytes_;
  const int token_;
};

// The weighted sum over slots of one row of one token; all shared-memory reads before the sums.
template <int kKUnits>
__device__ __forceinline__ float sum_slots(const PackedLayerView& layer, const float* parts,
                                           const PairScale* pair_scales, int num_pairs, int token,
                                           int row, int h) {
  constexpr int kBatch = 8;
  float sum = 0.0f;
  for (int first = 0; first < layer.top_k; first += kBatch) {
    PairScale scale[kBatch];
    float product[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int slot = first + i, pair = token * layer.top_k + slot;
      scale[i] = slot < layer.top_k ? pair_scales[pair] : PairScale{-1, 0.0f, 0.0f};
      product[i] = 0.0f;
      if (scale[i].expert < 0) continue;
#pragma unroll
      for (int ku = 0; ku < kKUnits; ++ku) {
        product[i] += parts[(ku * num_pairs + pair) * kTileRows + row];
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (scale[i].expert < 0) continue;
      const float bias =
          layer.bias_down == nullptr
              ? 0.0f
              : layer.bias_down[static_cast<int64_t>(scale[i].expert) * layer.hidden_size + h];
      sum = fmaf(scale[i].weight, fmaf(product[i], scale[i].alpha, bias), sum);
    }
  }
  return sum;
}

template <WeightFormat Format, int kKUnits>
__global__ __launch_bounds__(kThreads,
                             1) void row_stationary_kernel(const __grid_constant__ MarlinParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  const PackedLayerView& layer = p.layer;
  const int lane = lane_id(), g = lane / 4, t = lane % 4;
  const int last_block = layer.intermediate_size - 16;
  using Stream = StepStream<Format, 1, kWarps>;
  Stream stream(shared, lane);
  auto* const parts =
      reinterpret_cast<float*>(shared + Stream::kSharedBytes);  // [kKUnits][num_pairs][16]
  auto* const pair_scales = reinterpret_cast<PairScale*>(parts + kKUnits * p.num_pairs * kTileRows);
  int* const routing = reinterpret_cast<int*>(pair_scales + p.num_pairs);

  const TileList list = route_in_block<kThreads>(layer, p.topk_ids, p.num_pairs, routing);
  __builtin_assume(__isShared(list.tiles));
  __builtin_assume(__isShared(list.pairs));
  const UnitFinder<Format, kKUnits> finder(p, list, lane);
  RowUnit unit = finder.first(), next = finder.after(unit);
  stream.start(0, unit.weights, unit.weights != nullptr);
  if (Stream::kAhead == 2) stream.start(1, next.weights, next.weights != nullptr);
  wait_for_previous_kernel();
  launch_dependents();
  TokenFragments tokens = {};
  load_tokens(tokens, unit.row, unit.k_unit * kUnitK, last_block, lane);

  // On its way while the warp multiplies.
  const int my_pair = threadIdx.x;
  PairScale my_scale = {};
  if (my_pair < p.num_pairs) my_scale = load_pair_scale(p, my_pair);

  const auto multiply = [&](auto stage) {
    const RowUnit after = finder.after(next);
    const uint8_t* const ahead = Stream::kAhead == 2 ? after.weights : next.weights;
    float acc[1][4] = {};
    stream.multiply(stage.value, tokens, acc, ahead, ahead != nullptr, [&](int chunk) {
      load_chunk_tokens(tokens, next.row, next.k_unit * kUnitK, last_block, lane, chunk);
    });
    const TokenTile tile = list.tiles[unit.tile];
    float* const part = parts + unit.k_unit * p.num_pairs * kTileRows;
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      if (2 * t + q >= tile.count) continue;
      float* const row = part + list.pairs[tile.first + 2 * t + q] * kTileRows;
      row[g] = acc[0][q];
      row[g + 8] = acc[0][2 + q];
    }
    unit = next;
    next = after;
  };
  // Stages as constants: the loop has few instructions to spare.
  while (unit.weights != nullptr) {
    multiply(std::integral_constant<int, 0>{});
    if (unit.weights == nullptr) break;
    multiply(std::integral_constant<int, 1>{});
  }
  if (my_pair < p.num_pairs) pair_scales[my_pair] = my_scale;
  for (int pair = my_pair + kThreads; pair < p.num_pairs; pair += kThreads) {
    pair_scales[pair] = load_pair_scale(p, pair);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < p.num_tokens * kTileRows; i += kThreads) {
    const int token = i / kTileRows, row = i % kTileRows, h = blockIdx.x * kTileRows + row;
    const float sum = sum_slots<kKUnits>(layer, parts, pair_scales, p.num_pairs, token, row, h);
    p.out[static_cast<int64_t>(token) * layer.hidden_size + h] = __float2bfloat16(sum);
  }
}

using RowKernel = void (*)(MarlinParams);

template <WeightFormat Format>
RowKernel row_kernel(int k_units) {
  switch (k_units) {
    case 1:
      return row_stationary_kernel<Format, 1>;
    case 2:
      return row_stationary_kernel<Format, 2>;
    case 3:
      return row_stationary_kernel<Format, 3>;
    case 4:
      return row_stationary_kernel<Format, 4>;
    default:
      return nullptr;
  }
}
RowKernel row_kernel(const PackedLayerView& layer) {
  return layer.format == WeightFormat::kMxfp4 ? row_kernel<WeightFormat::kMxfp4>(layer.fc2_k_units)
                                              : row_kernel<WeightFormat::kNvfp4>(layer.fc2_k_units);
}

}  // namespace

size_t fc2_rows_shared_bytes(const PackedLayerView& layer, int64_t num_pairs, bool bulk_copies) {
  const int64_t pair_bytes = layer.fc2_k_units * kTileRows * static_cast<int64_t>(sizeof(float)) +
                             static_cast<int64_t>(sizeof(PairScale));
  return static_cast<size_t>(step_stream_bytes(layer.format, 1, kWarps, bulk_copies) +
                             pair_bytes * num_pairs +
                             block_routing_bytes(num_pairs, layer.num_local_experts));
}

void allow_row_shared_memory(const PackedLayerView& layer, size_t bytes) {
  if (row_kernel(layer) == nullptr) return;
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(
      row_kernel(layer), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

void launch_fc2_rows(const MarlinParams& params, size_t shared_bytes, cudaStream_t stream,
                     bool dependent) {
  launch(row_kernel(params.layer),
         {.grid = dim3(static_cast<unsigned>(params.layer.hidden_size / kTileRows)),
          .block = dim3(kThreads),
          .shared_bytes = shared_bytes,
          .stream = stream,
          .dependent = dependent},
         params);
}

}  // namespace moe4::cuda
