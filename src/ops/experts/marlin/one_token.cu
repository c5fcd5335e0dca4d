// One token: both products as straight-line code. The ids are the list of experts, so there is no
// routing and no loop; every warp asks for its weights early, and what is left is the
// chain of latencies: ids -> weights -> sums -> act -> sums.
//
//   FC1  a block of 8 warps: up to three m16 tiles of one slot's expert, warp s has unit s of K
//   FC2  a block: 16 output rows of all slots, a warp for each (slot, unit of K)
//
// Beyond 24 warps of FC2 a thread has 64 registers: the tokens then come through shared memory.
//
// Sums are added in the order of expert_gemm.cu and row_stationary.cu: a token gets the same bits.
// The token is column 0 of the products, so the sums of lanes 4g are the ones that count.
#include <limits>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/experts/marlin/fc1_activation.cuh"
#include "ops/experts/marlin/marlin_kernels.h"
#include "ops/experts/marlin/weight_step.cuh"
#include "ops/experts/marlin/work_split.cuh"

namespace moe4::cuda {
namespace {

constexpr int kFc1Split = 8;
constexpr int kFc1Threads = 32 * kFc1Split;
constexpr int kFc2Warps = 24;     // at most 80 registers a thread
constexpr int kMaxFc2Warps = 32;  // 64

// acc += weights times a token at `x` in shared memory, in each column.
template <WeightFormat Format, int kTiles>
__device__ __forceinline__ void multiply_token(WeightFragments<kTiles>& weights, uint32_t x,
                                               float (&acc)[kTiles][4], int lane) {
  TokenFragments tokens;
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    const uint32_t at = x + (chunk * kChunkK + (lane & 3) * 16) * 2;
    tokens.b[chunk][0] = load_shared16(at);
    tokens.b[chunk][1] = load_shared16(at + 16);
  }
  multiply_step<Format>(weights, tokens, acc, nullptr, false, lane, [](int) {});
}

// Sums over the units of K of m16 tile `warp` of the block, in their order.
template <int kTiles>
__device__ __forceinline__ void store_fc1(const MarlinParams& p, int expert,
                                          const Fc1Scales& scales, int slot, int tile,
                                          const float2 (&partial)[kTiles][kFc1Split][8], int warp,
                                          int lane) {
  float top[1] = {partial[warp][0][lane].x}, bottom[1] = {partial[warp][0][lane].y};
#pragma unroll
  for (int s = 1; s < kFc1Split; ++s) {
    top[0] += partial[warp][s][lane].x;
    bottom[0] += partial[warp][s][lane].y;
  }
  const int pairs[1] = {slot};
  store_activations(p.layer, p.act, expert, scales, tile + warp, lane, pairs, top, bottom);
}

// m16 tiles of an expert's FC1, `kTiles` at a time; two blocks of a multiprocessor at once.
template <WeightFormat Format, int kTiles>
__global__ __launch_bounds__(kFc1Threads,
                             2) void one_token_fc1_kernel(const __grid_constant__ MarlinParams p) {
  using Unit = UnitLayout<Format>;
  __shared__ float2 partial[kTiles][kFc1Split][8];  // rows g and g + 8
  const PackedLayerView& layer = p.layer;
  const int lane = lane_id(), g = lane / 4, warp = threadIdx.x / 32;
  const int blocks_a_slot = layer.fc1_tiles / kTiles;
  const int slot = blockIdx.x / blocks_a_slot;
  const int first_tile = (blockIdx.x - slot * blocks_a_slot) * kTiles;
  wait_for_previous_kernel();
  launch_dependents();
  const int expert = layer.local_expert(p.topk_ids[slot]);
  if (expert < 0) return;

  WeightFragments<kTiles> weights;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const uint8_t* const unit =
        layer.fc1 +
        unit_index(layer.fc1_tiles, kFc1Split, expert, first_tile + tile, warp) * Unit::kBytes;
    weights.scales[tile] = load_streaming8(unit + Unit::scales(lane));
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      weights.words[tile][chunk] = load_streaming16(unit + chunk * 512 + lane * 16);
    }
  }
  const __nv_bfloat16* const row =
      p.x + static_cast<int64_t>(layer.weight_on_input ? slot : 0) * layer.hidden_size;
  TokenFragments tokens = {};
  load_tokens(tokens, g == 0 ? row : nullptr, warp * kUnitK, layer.hidden_size - 16, lane);
  const Fc1Scales scales = fc1_scales(layer, expert);
  float acc[kTiles][4] = {};
  multiply_step<Format>(weights, tokens, acc, nullptr, false, lane, [](int) {});
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    if (lane % 4 == 0) partial[tile][warp][g] = make_float2(acc[tile][0], acc[tile][2]);
  }
  __syncthreads();
  if (warp >= kTiles || lane >= 8) return;
  store_fc1(p, expert, scales, slot, first_tile, partial, warp, lane);
}

// 256 columns of a row of `width` to shared memory, 8 a lane. Past K weights are zeros, as in
// weight_step.cuh.
__device__ __forceinline__ void share_token(uint32_t to, const __nv_bfloat16* row, int k_unit,
                                            int width, int lane) {
  copy16(to + lane * 16, row + min(k_unit * kUnitK + lane * 8, width - 8), 16);
}

// The same beside shared experts, which are known: their weights come while the router chooses the
// others. `kBlocks` of a multiprocessor at once.
template <WeightFormat Format, int kTiles, int kBlocks>
__global__ __launch_bounds__(kFc1Threads, kBlocks) void one_token_fc1_beside_shared_kernel(
    const __grid_constant__ MarlinParams p) {
  using Unit = UnitLayout<Format>;
  __shared__ float2 partial[kTiles][kFc1Split][8];  // rows g and g + 8
  __shared__ __align__(16) __nv_bfloat16 x[kFc1Split][kUnitK];
  const PackedLayerView& layer = p.layer;
  const int lane = lane_id(), g = lane / 4, warp = threadIdx.x / 32;
  const int slot = blockIdx.y, first_tile = blockIdx.x * kTiles;
  const uint32_t my_x = shared_address(x[warp]);
  const auto wait = [&] {
    wait_for_previous_kernel();
    launch_dependents();
  };
  const bool is_shared = slot >= layer.top_k - layer.num_shared;
  int expert = layer.num_local_experts - layer.top_k + slot;
  if (!is_shared) {
    wait();
    expert = layer.local_expert(p.topk_ids[slot]);
    if (expert < 0) return;
  }
  // None of these loads is behind the __syncwarp(): ptxas would ask for some only when others have
  // come. With two blocks of a multiprocessor that is no gain, with three it is.
  WeightFragments<kTiles> weights;
#pragma unroll
  for (unsigned tile = 0; tile < kTiles; ++tile) {
    const unsigned row = blockIdx.x * kTiles + tile;
    const unsigned pair = expert * (layer.fc1_tiles / 2u) + row / 2;
    const uint8_t* const unit =
        layer.fc1 + ((pair * kFc1Split + warp) * 2 + row % 2) * uint32_t{Unit::kBytes};
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      weights.words[tile][chunk] = load_in_order16(unit + chunk * 512 + lane * 16);
    }
    weights.scales[tile] = load_in_order8(unit + Unit::scales(lane));
  }
  __syncwarp();
  if (is_shared) wait();
  share_token(my_x,
              p.x + static_cast<int64_t>(layer.weight_on_input ? slot : 0) * layer.hidden_size,
              warp, layer.hidden_size, lane);
  const Fc1Scales scales = fc1_scales(layer, expert);
  copy_commit();
  copy_wait<0>();
  __syncwarp();
  float acc[kTiles][4] = {};
  multiply_token<Format>(weights, my_x, acc, lane);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    if (lane % 4 == 0) partial[tile][warp][g] = make_float2(acc[tile][0], acc[tile][2]);
  }
  __syncthreads();
  if (warp >= kTiles || lane >= 8) return;
  store_fc1(p, expert, scales, slot, first_tile, partial, warp, lane);
}

// 16 output rows a block, top_k * fc2_k_units warps, at most kWarps.
template <WeightFormat Format, int kWarps>
__global__ __launch_bounds__(32 * kWarps,
                             1) void one_token_fc2_kernel(const __grid_constant__ MarlinParams p) {
  constexpr bool kShareTokens = kWarps > kFc2Warps;
  __shared__ float products[kWarps][kTileRows];  // [slot][unit of K][row]
  __shared__ float y[kWarps][kTileRows];         // [slot][row], weighted when summed
  __shared__ float slot_weights[kWarps];
  __shared__ bool slot_counts[kWarps];
  __shared__ __align__(16) __nv_bfloat16 x[kShareTokens ? kWarps : 1][kUnitK];
  const PackedLayerView& layer = p.layer;
  const int lane = lane_id(), g = lane / 4, warp = threadIdx.x / 32;
  const int slot = warp / layer.fc2_k_units, k_unit = warp - slot * layer.fc2_k_units;
  const int expert = layer.local_expert(p.topk_ids[slot]);
  WeightFragments<1> weights = {};
  load_weights<Format>(weights, fc2_unit<Format>(layer, max(expert, 0), blockIdx.x, k_unit),
                       expert >= 0, lane);

  // While the weights come: thread i later makes row i % 16 of slot i / 16.
  const int y_slot = threadIdx.x / kTileRows, y_row = threadIdx.x % kTileRows;
  const int h = blockIdx.x * kTileRows + y_row;
  const int y_expert = y_slot < layer.top_k ? layer.local_expert(p.topk_ids[y_slot]) : -1;
  float alpha = 0.0f, bias = 0.0f, weight = 1.0f;
  if (y_expert >= 0) {
    alpha = layer.alpha_down[y_expert];
    if (layer.bias_down != nullptr) {
      bias = layer.bias_down[static_cast<int64_t>(y_expert) * layer.hidden_size + h];
    }
    if (!layer.weight_on_input) weight = p.topk_weights[y_slot];
  }
  wait_for_previous_kernel();
  launch_dependents();
  const __nv_bfloat16* const row = p.act + static_cast<int64_t>(slot) * layer.intermediate_size;
  float acc[1][4] = {};
  if constexpr (kShareTokens) {
    const uint32_t my_x = shared_address(x[warp]);
    if (expert >= 0) share_token(my_x, row, k_unit, layer.intermediate_size, lane);
    copy_commit();
    copy_wait<0>();
    __syncwarp();
    if (expert >= 0) multiply_token<Format>(weights, my_x, acc, lane);
  } else {
    TokenFragments tokens = {};
    load_tokens(tokens, expert >= 0 && g == 0 ? row : nullptr, k_unit * kUnitK,
                layer.intermediate_size - 16, lane);
    multiply_step<Format>(weights, tokens, acc, nullptr, false, lane, [](int) {});
  }
  if (lane % 4 == 0) {
    products[warp][g] = acc[0][0];
    products[warp][g + 8] = acc[0][2];
  }
  if (y_row == 0 && y_slot < layer.top_k) {
    slot_weights[y_slot] = weight;
    slot_counts[y_slot] = y_expert >= 0;
  }
  __syncthreads();
  if (y_expert >= 0) {
    float product = 0.0f;
    for (int ku = 0; ku < layer.fc2_k_units; ++ku) {
      product += products[y_slot * layer.fc2_k_units + ku][y_row];
    }
    y[y_slot][y_row] = fmaf(product, alpha, bias);
  }
  __syncthreads();
  if (threadIdx.x >= kTileRows) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int s = 0; s < layer.top_k; ++s) {
    const float next = fmaf(slot_weights[s], y[s][y_row], sum);
    sum = slot_counts[s] ? next : sum;
  }
  p.out[h] = __float2bfloat16(sum);
}

// How FC1 is cut: all blocks live at once.
struct Fc1Cut {
  int tiles, blocks;  // of a block, of a multiprocessor
  bool beside_shared;
  void (*kernels[2])(MarlinParams);  // by format

  bool fits(const MarlinParams& p) const {
    return p.layer.fc1_tiles % tiles == 0 &&
           p.layer.top_k * (p.layer.fc1_tiles / tiles) <= blocks * p.sm_count;
  }
};
template <int kTiles>
constexpr Fc1Cut fc1_cut() {
  return {kTiles,
          2,
          false,
          {one_token_fc1_kernel<WeightFormat::kNvfp4, kTiles>,
           one_token_fc1_kernel<WeightFormat::kMxfp4, kTiles>}};
}
template <int kTiles, int kBlocks>
constexpr Fc1Cut fc1_cut_beside_shared() {
  return {kTiles,
          kBlocks,
          true,
          {one_token_fc1_beside_shared_kernel<WeightFormat::kNvfp4, kTiles, kBlocks>,
           one_token_fc1_beside_shared_kernel<WeightFormat::kMxfp4, kTiles, kBlocks>}};
}
// In order of preference. On an H200 the last but one holds Qwen3.6's shared expert beside eight
// routed ones, the last GLM-4.7-Flash's beside four, three times as wide.
constexpr Fc1Cut kFc1Cuts[] = {fc1_cut<1>(), fc1_cut<2>(), fc1_cut<3>(),
                               fc1_cut_beside_shared<2, 3>(), fc1_cut_beside_shared<4, 2>()};

const Fc1Cut* fc1_cut_of(const MarlinParams& p) {
  for (const Fc1Cut& cut : kFc1Cuts) {
    if (cut.fits(p)) return &cut;
  }
  return nullptr;
}

}  // namespace

bool has_one_token_kernels(const MarlinParams& p) {
  const PackedLayerView& layer = p.layer;
  // Places are 32-bit numbers.
  const int64_t fc1_bytes =
      unit_index(layer.fc1_tiles, layer.fc1_k_units, layer.num_local_experts, 0, 0) *
      UnitLayout<WeightFormat::kNvfp4>::kBytes;
  return fc1_bytes <= std::numeric_limits<uint32_t>::max() && p.fc1_split == kFc1Split &&
         layer.fc1_k_units == kFc1Split && p.fc2_split == layer.fc2_k_units &&
         layer.top_k * layer.fc2_k_units <= kMaxFc2Warps &&
         layer.hidden_size / kTileRows <= p.sm_count && fc1_cut_of(p) != nullptr;
}

void launch_one_token_fc1(const MarlinParams& params, cudaStream_t stream, bool dependent) {
  const Fc1Cut& cut = *fc1_cut_of(params);
  const auto blocks = static_cast<unsigned>(params.layer.fc1_tiles / cut.tiles);
  const auto slots = static_cast<unsigned>(params.layer.top_k);
  launch(cut.kernels[params.layer.format == WeightFormat::kMxfp4],
         {.grid = cut.beside_shared ? dim3(blocks, slots) : dim3(blocks * slots),
          .block = dim3(kFc1Threads),
          .stream = stream,
          .dependent = dependent},
         params);
}

void launch_one_token_fc2(const MarlinParams& params, cudaStream_t stream, bool dependent) {
  static constexpr void (*kKernels[2][2])(MarlinParams) = {
      {one_token_fc2_kernel<WeightFormat::kNvfp4, kFc2Warps>,
       one_token_fc2_kernel<WeightFormat::kMxfp4, kFc2Warps>},
      {one_token_fc2_kernel<WeightFormat::kNvfp4, kMaxFc2Warps>,
       one_token_fc2_kernel<WeightFormat::kMxfp4, kMaxFc2Warps>}};
  const int warps = params.layer.top_k * params.layer.fc2_k_units;
  launch(kKernels[warps > kFc2Warps][params.layer.format == WeightFormat::kMxfp4],
         {.grid = dim3(static_cast<unsigned>(params.layer.hidden_size / kTileRows)),
          .block = dim3(static_cast<unsigned>(32 * warps)),
          .stream = stream,
          .dependent = dependent},
         params);
}

}  // namespace moe4::cuda
