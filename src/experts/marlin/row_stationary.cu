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
// 512 threads, one block an SM: weights of two units (4.6 KB) in flight a warp (unit_stream.cuh).
#include <type_traits>

#include "experts/device/block_routing.cuh"
#include "experts/device/launch.h"
#include "experts/marlin/marlin_kernels.h"
#include "experts/marlin/unit_stream.cuh"
#include "experts/marlin/work_split.cuh"

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
  int index;  // token tile * kKUnits + unit of K
  const uint8_t* weights;
  const __nv_bfloat16* row;  // of this lane's token, or null
};

template <int kKUnits>
__device__ __forceinline__ RowUnit find_unit(const MarlinParams& p, const TileList& list, int index,
                                             int lane) {
  const int k_unit = index % kKUnits;
  if (index >= list.num_tiles * kKUnits) return {index, nullptr, nullptr};
  const TokenTile tile = list.tiles[index / kKUnits];
  RowUnit unit{index, fc2_unit(p.layer, tile.expert, blockIdx.x, k_unit), nullptr};
  if (lane / 4 < tile.count) {
    const int pair = list.pairs[tile.first + lane / 4];
    unit.row = p.act + static_cast<int64_t>(pair) * p.layer.intermediate_size;
  }
  return unit;
}

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

template <int kKUnits>
__global__ __launch_bounds__(kThreads,
                             1) void row_stationary_kernel(const __grid_constant__ MarlinParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  const PackedLayerView& layer = p.layer;
  const int lane = lane_id(), g = lane / 4, t = lane % 4;
  const int last_block = layer.intermediate_size - 16;
  UnitStream stream(shared, kWarps, lane);
  auto* const parts = reinterpret_cast<float*>(  // [kKUnits][num_pairs][16]
      shared + unit_stream_bytes(kWarps, UnitStream::kBulkCopies));
  auto* const pair_scales = reinterpret_cast<PairScale*>(parts + kKUnits * p.num_pairs * kTileRows);
  int* const routing = reinterpret_cast<int*>(pair_scales + p.num_pairs);

  const TileList list = route_in_block<kThreads>(layer, p.topk_ids, p.num_pairs, routing);
  __builtin_assume(__isShared(list.tiles));
  __builtin_assume(__isShared(list.pairs));
  RowUnit unit = find_unit<kKUnits>(p, list, static_cast<int>(threadIdx.x) / 32, lane);
  RowUnit next = find_unit<kKUnits>(p, list, unit.index + kWarps, lane);
  stream.start<0>(unit.weights);
  stream.start<1>(next.weights);
  wait_for_previous_kernel();
  launch_dependents();
  TokenFragments tokens = {};
  load_tokens(tokens, unit.row, unit.index % kKUnits * kUnitK, last_block, lane);

  // On its way while the warp multiplies.
  const int my_pair = threadIdx.x;
  PairScale my_scale = {};
  if (my_pair < p.num_pairs) my_scale = load_pair_scale(p, my_pair);

  const auto multiply = [&](auto stage) {
    const RowUnit after = find_unit<kKUnits>(p, list, next.index + kWarps, lane);
    float acc[1][4] = {};
    stream.multiply<stage.value>(tokens, acc, after.weights, [&](int chunk) {
      load_chunk_tokens(tokens, next.row, next.index % kKUnits * kUnitK, last_block, lane, chunk);
    });
    const TokenTile tile = list.tiles[unit.index / kKUnits];
    float* const part = parts + unit.index % kKUnits * p.num_pairs * kTileRows;
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

RowKernel row_kernel(const PackedLayerView& layer) {
  switch (layer.fc2_k_units) {
    case 1:
      return row_stationary_kernel<1>;
    case 2:
      return row_stationary_kernel<2>;
    case 3:
      return row_stationary_kernel<3>;
    case 4:
      return row_stationary_kernel<4>;
    default:
      return nullptr;
  }
}

}  // namespace

size_t fc2_rows_shared_bytes(const PackedLayerView& layer, int64_t num_pairs, bool bulk_copies) {
  const int64_t pair_bytes = layer.fc2_k_units * kTileRows * static_cast<int64_t>(sizeof(float)) +
                             static_cast<int64_t>(sizeof(PairScale));
  return static_cast<size_t>(unit_stream_bytes(kWarps, bulk_copies) + pair_bytes * num_pairs +
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
