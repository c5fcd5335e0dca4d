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
// 512 threads, one block an SM: weights of one m16 step (2.3 KB) in flight a warp.
#include "experts/device/block_routing.cuh"
#include "experts/device/launch.h"
#include "experts/marlin/marlin_kernels.h"
#include "experts/marlin/weight_step.cuh"

namespace moe4::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = 32 * kWarps;

// What the final sum needs of a pair, gathered while FC1 still runs.
struct PairScale {
  int expert;  // -1: skipped
  float alpha, weight;
};

// Walks the units of this warp over all m16 tiles of its block.
class RowCursor {
 public:
  __device__ __forceinline__ RowCursor(const MarlinParams& p, const TileList& list, int lane)
      : p_(p), list_(list), token_(lane / 4), row_tile_(blockIdx.x), k_unit_(threadIdx.x / 32) {
    settle();
  }

  __device__ __forceinline__ const StepSource& source() const { return source_; }
  __device__ __forceinline__ int tile() const { return tile_; }
  __device__ __forceinline__ int k_unit() const { return k_unit_; }
  __device__ __forceinline__ int row_tile() const { return row_tile_; }

  __device__ __forceinline__ void advance() {
    k_unit_ += kWarps;
    settle();
  }

 private:
  __device__ __forceinline__ void carry() {
    while (k_unit_ >= p_.layer.fc2_k_units) {
      k_unit_ -= p_.layer.fc2_k_units;
      ++tile_;
    }
  }
  // Past the last token tile comes the block's next row tile; past that, nothing.
  __device__ __forceinline__ void settle() {
    carry();
    if (tile_ >= list_.num_tiles) {
      row_tile_ += gridDim.x;
      tile_ = 0;
      k_unit_ = threadIdx.x / 32;
      carry();
    }
    if (tile_ >= list_.num_tiles || row_tile_ * kTileRows >= p_.layer.hidden_size) {
      source_.valid = false;
      return;
    }
    source_.valid = true;
    const TokenTile tile = list_.tiles[tile_];
    const int step =
        (tile.expert * (p_.layer.fc2_tiles / 2) + row_tile_ / 2) * p_.layer.fc2_k_units +
        k_unit_;  // of at most 2^31
    source_.weights =
        p_.layer.fc2 + (row_tile_ & 1) * kUnitBytes + static_cast<int64_t>(step) * kStepBytes;
    source_.column = k_unit_ * kUnitK;
    source_.row = token_ < tile.count
                      ? p_.act + static_cast<int64_t>(list_.pairs[tile.first + token_]) *
                                     p_.layer.intermediate_size
                      : nullptr;
  }

  const MarlinParams& p_;
  const TileList& list_;
  const int token_;
  int row_tile_, tile_ = 0, k_unit_;
  StepSource source_;
};

__global__ __launch_bounds__(kThreads,
                             1) void row_stationary_kernel(const __grid_constant__ MarlinParams p) {
  extern __shared__ __align__(16) uint8_t shared[];
  const PackedLayerView& layer = p.layer;
  const StepLane at{lane_id(), layer.intermediate_size - 16};
  const int g = at.lane / 4, t = at.lane % 4;
  const int k_units = layer.fc2_k_units;
  auto* const parts = reinterpret_cast<float*>(shared);  // [k_units][num_pairs][16]
  int* const routing =
      reinterpret_cast<int*>(shared + static_cast<size_t>(k_units) * p.num_pairs * 64);

  auto* const pair_scales = reinterpret_cast<PairScale*>(
      shared + static_cast<size_t>(k_units) * p.num_pairs * 64 +
      block_routing_bytes(p.num_pairs, layer.num_local_experts, kThreads));
  for (int pair = threadIdx.x; pair < p.num_pairs; pair += kThreads) {
    const int expert = layer.local_expert(p.topk_ids[pair]);
    pair_scales[pair] = {expert, expert < 0 ? 0.0f : layer.alpha_down[expert],
                         layer.weight_on_input ? 1.0f : p.topk_weights[pair]};
  }

  const TileList list = route_in_block<kThreads>(layer, p.topk_ids, p.num_pairs, routing);
  RowCursor cursor(p, list, at.lane);
  StepFragments<1> fragments = {};
  load_step_weights(fragments, cursor.source(), at);
  wait_for_previous_kernel();
  launch_dependents();
  load_step_activations(fragments, cursor.source(), at);

  for (int row_tile = blockIdx.x; row_tile * kTileRows < layer.hidden_size; row_tile += gridDim.x) {
    while (cursor.source().valid && cursor.row_tile() == row_tile) {
      const TokenTile tile = list.tiles[cursor.tile()];
      float* const part = parts + static_cast<int64_t>(cursor.k_unit()) * p.num_pairs * 16;
      cursor.advance();
      float acc[1][4] = {};
      multiply_step(fragments, acc, cursor.source(), cursor.source().valid, at);
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        if (2 * t + q >= tile.count) continue;
        float* const row = part + list.pairs[tile.first + 2 * t + q] * 16;
        row[g] = acc[0][q];
        row[g + 8] = acc[0][2 + q];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < p.num_tokens * kTileRows; i += kThreads) {
      const int token = i / kTileRows, row = i % kTileRows, h = row_tile * kTileRows + row;
      float sum = 0.0f;
      for (int slot = 0; slot < layer.top_k; ++slot) {
        const int pair = token * layer.top_k + slot;
        const PairScale scale = pair_scales[pair];
        if (scale.expert < 0) continue;
        float product = 0.0f;
        for (int ku = 0; ku < k_units; ++ku) {
          product += parts[(static_cast<int64_t>(ku) * p.num_pairs + pair) * 16 + row];
        }
        const float bias =
            layer.bias_down == nullptr
                ? 0.0f
                : layer.bias_down[static_cast<int64_t>(scale.expert) * layer.hidden_size + h];
        const float y = fmaf(product, scale.alpha, bias);
        sum = fmaf(scale.weight, y, sum);
      }
      p.out[static_cast<int64_t>(token) * layer.hidden_size + h] = __float2bfloat16(sum);
    }
    __syncthreads();
  }
}

}  // namespace

size_t fc2_rows_shared_bytes(const PackedLayerView& layer, int64_t num_pairs) {
  return static_cast<size_t>(layer.fc2_k_units * num_pairs * 64 + num_pairs * 12 +
                             block_routing_bytes(num_pairs, layer.num_local_experts, kThreads));
}

void allow_row_shared_memory() {
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(row_stationary_kernel,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, 96 * 1024));
}

void launch_fc2_rows(const MarlinParams& params, int blocks, cudaStream_t stream, bool dependent) {
  launch(row_stationary_kernel,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(kThreads),
          .shared_bytes = fc2_rows_shared_bytes(params.layer, params.num_pairs),
          .stream = stream,
          .dependent = dependent},
         params);
}

}  // namespace moe4::cuda
