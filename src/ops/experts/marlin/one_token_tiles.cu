// One token of layers that one_token.cu's straight-line code has no room for: a block has an m16
// tile of one slot's expert. All of its units of K come at once by bulk copies, and all blocks of
// FC1 live side by side, so its bytes are on their way as soon as the ids are known; FC2's, and
// those of shared experts, before FC1 and the router have ended. Where FC1's cannot all live at
// once expert_gemm.cu is quicker: a second wave of blocks costs more than it hides.
//
// Four warps share a tile's runs of units (sum_order.h); a run is one chain, runs are added in
// order, as in expert_gemm.cu: a token gets the same bits. The token is column 0 of the products,
// so the sums of lanes 4g are the ones that count.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/experts/marlin/fc1_activation.cuh"
#include "ops/experts/marlin/marlin_kernels.h"
#include "ops/experts/marlin/weight_step.cuh"

namespace moe4::cuda {

// Not anonymous: nvcc takes what only SM90 and later use for forgotten otherwise.
namespace one_token_tiles {

constexpr int kWarps = 4;
constexpr int kMostRuns = 8;
// 64 registers a thread, and 28 KB of shared memory a block.
constexpr int kBlocks = 8;
constexpr int kReserve = 1024;  // of a block's shared memory: barriers and sums

// A product's part of the parameters.
template <bool kFc1>
struct Product {
  const uint8_t* matrix;
  int tiles, k_units, runs, width;  // width: columns of the token's row

  __device__ __forceinline__ explicit Product(const MarlinParams& p)
      : matrix(kFc1 ? p.layer.fc1 : p.layer.fc2),
        tiles(kFc1 ? p.layer.fc1_tiles : p.layer.fc2_tiles),
        k_units(kFc1 ? p.layer.fc1_k_units : p.layer.fc2_k_units),
        runs(kFc1 ? p.fc1_split : p.fc2_split),
        width(kFc1 ? p.layer.hidden_size : p.layer.intermediate_size) {}
};

// Asks for the units of this warp's runs of the tile, where barrier r tells of run r; one lane.
template <WeightFormat Format, bool kFc1>
__device__ __forceinline__ void copy_runs(const Product<kFc1>& product, int expert, int tile,
                                          int warp, uint8_t* units, uint64_t* full) {
  using Unit = UnitLayout<Format>;
  const int in_run = run_units(product.k_units, product.runs);
  const uint64_t policy = evict_first_policy();  // read once
  for (int run = warp; run < product.runs; run += kWarps) {
    const int begin = run * in_run, end = min(begin + in_run, product.k_units);
    const uint32_t barrier = shared_address(&full[run]);
    barrier_expect(barrier, (end - begin) * Unit::kBytes);
    for (int unit = begin; unit < end; ++unit) {
      bulk_copy(shared_address(units + unit * Unit::kBytes),
                product.matrix +
                    unit_index(product.tiles, product.k_units, expert, tile, unit) * Unit::kBytes,
                Unit::kBytes, barrier, policy);
    }
  }
}

// acc += a unit in shared memory times the token's columns, chunk after chunk.
template <WeightFormat Format, int kChunk = 0>
__device__ __forceinline__ void multiply_unit(const uint8_t* unit, const TokenFragments& tokens,
                                              WeightFragments<1>& weights, float (&acc)[1][4],
                                              int lane) {
  weights.words[0][kChunk] = *reinterpret_cast<const uint4*>(unit + kChunk * 512 + lane * 16);
  multiply_chunk<Format, kChunk>(weights, tokens, acc, nullptr, false, lane);
  if constexpr (kChunk + 1 < kChunks) {
    multiply_unit<Format, kChunk + 1>(unit, tokens, weights, acc, lane);
  }
}

// FC1: act[slot]; FC2: y[slot], as launch_fc2_experts() leaves it.
template <WeightFormat Format, bool kFc1>
__global__ __launch_bounds__(32 * kWarps, kBlocks) void one_token_tile_kernel(
    const __grid_constant__ MarlinParams p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t units[];  // [unit of K]
  __shared__ uint64_t full[kMostRuns];
  __shared__ float sums[kMostRuns][kTileRows];
  const PackedLayerView& layer = p.layer;
  const Product<kFc1> product(p);
  const int lane = lane_id(), g = lane / 4, warp = static_cast<int>(threadIdx.x) / 32;
  const int tile = static_cast<int>(blockIdx.x), slot = static_cast<int>(blockIdx.y);
  if (lane == 0) {
    for (int run = warp; run < product.runs; run += kWarps) {
      barrier_init(shared_address(&full[run]), 1);
    }
    fence_barrier_init();
  }
  __syncwarp();
  const auto wait = [&] {
    wait_for_previous_kernel();
    launch_dependents();
  };
  // By the time FC2 runs its prologue all that FC1 waited for is done, the ids among it.
  const bool known = kFc1 && slot >= layer.top_k - layer.num_shared;
  if (kFc1 && !known) wait();
  const int expert =
      known ? layer.num_local_experts - layer.top_k + slot : layer.local_expert(p.topk_ids[slot]);
  if (expert < 0) return;
  if (lane == 0) copy_runs<Format>(product, expert, tile, warp, units, full);
  const Fc1Scales scales =
      kFc1 ? fc1_scales(layer, expert) : Fc1Scales{.up = layer.alpha_down[expert]};
  if (!kFc1 || known) wait();

  const __nv_bfloat16* row;
  if constexpr (kFc1) {
    row = p.x + static_cast<int64_t>(layer.weight_on_input ? slot : 0) * layer.hidden_size;
  } else {
    row = p.act + static_cast<int64_t>(slot) * layer.intermediate_size;
  }
  const int in_run = run_units(product.k_units, product.runs);
  for (int run = warp; run < product.runs; run += kWarps) {
    const int begin = run * in_run, end = min(begin + in_run, product.k_units);
    float acc[1][4] = {};
    for (int unit = begin; unit < end; ++unit) {
      TokenFragments tokens = {};
      load_tokens(tokens, g == 0 ? row : nullptr, unit * kUnitK, product.width - 16, lane);
      if (unit == begin) barrier_wait(shared_address(&full[run]), 0);
      const uint8_t* const at = units + unit * UnitLayout<Format>::kBytes;
      WeightFragments<1> weights;
      weights.scales[0] = *reinterpret_cast<const uint2*>(at + UnitLayout<Format>::scales(lane));
      multiply_unit<Format>(at, tokens, weights, acc, lane);
    }
    if (lane % 4 == 0) {
      sums[run][g] = acc[0][0];
      sums[run][g + 8] = acc[0][2];
    }
  }
  __syncthreads();
  if (threadIdx.x >= (kFc1 ? 8 : kTileRows)) return;
  float top[1] = {sums[0][threadIdx.x]}, bottom[1] = {sums[0][kFc1 ? threadIdx.x + 8 : 0]};
  for (int run = 1; run < product.runs; ++run) {
    top[0] += sums[run][threadIdx.x];
    if constexpr (kFc1) bottom[0] += sums[run][threadIdx.x + 8];
  }
  if constexpr (kFc1) {
    const int pairs[1] = {slot};
    store_activations(layer, p.act, expert, scales, tile, lane, pairs, top, bottom);
  } else {
    const int h = tile * kTileRows + lane;
    const int64_t expert_row = static_cast<int64_t>(expert) * layer.hidden_size;
    const float bias = layer.bias_down == nullptr ? 0.0f : layer.bias_down[expert_row + h];
    p.y[static_cast<int64_t>(slot) * layer.hidden_size + h] = fmaf(top[0], scales.up, bias);
  }
#endif
}

using Kernel = void (*)(MarlinParams);
template <bool kFc1>
Kernel kernel_of(WeightFormat format) {
  return format == WeightFormat::kMxfp4 ? one_token_tile_kernel<WeightFormat::kMxfp4, kFc1>
                                        : one_token_tile_kernel<WeightFormat::kNvfp4, kFc1>;
}

template <bool kFc1>
struct Launch {
  int tiles, k_units;

  explicit Launch(const PackedLayerView& layer)
      // FC2 without the tile of padding that an odd number of tiles has.
      : tiles(kFc1 ? layer.fc1_tiles : layer.hidden_size / kTileRows),
        k_units(kFc1 ? layer.fc1_k_units : layer.fc2_k_units) {}
  int shared_bytes(const PackedLayerView& layer) const {
    return k_units * unit_bytes(layer.format);
  }
};

// How many of a product's blocks a multiprocessor has at a time; 0 if a block has no room.
template <bool kFc1>
int blocks_at_once(const PackedLayerView& layer, int runs, int most_bytes) {
  const int bytes = Launch<kFc1>(layer).shared_bytes(layer);
  if (runs > kMostRuns || bytes > most_bytes - kReserve) return 0;
  const Kernel kernel = kernel_of<kFc1>(layer.format);
  // Of the kernel, whatever layer set it last.
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       most_bytes - kReserve));
  int blocks = 0;
  MOE4_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, 32 * kWarps,
                                                                static_cast<size_t>(bytes)));
  return blocks;
}

template <bool kFc1>
void start(const MarlinParams& params, cudaStream_t stream, bool dependent) {
  const Launch<kFc1> cut(params.layer);
  launch(kernel_of<kFc1>(params.layer.format),
         {.grid = dim3(static_cast<unsigned>(cut.tiles), static_cast<unsigned>(params.layer.top_k)),
          .block = dim3(32 * kWarps),
          .shared_bytes = static_cast<size_t>(cut.shared_bytes(params.layer)),
          .stream = stream,
          .dependent = dependent},
         params);
}

}  // namespace one_token_tiles

using namespace one_token_tiles;

bool prepare_one_token_tiles(const MarlinParams& params, int most_shared_bytes) {
  const PackedLayerView& layer = params.layer;
  if (!params.bulk_copies) return false;
  const int64_t blocks = blocks_at_once<true>(layer, params.fc1_split, most_shared_bytes);
  return int64_t{layer.fc1_tiles} * layer.top_k <= blocks * params.sm_count &&
         blocks_at_once<false>(layer, params.fc2_split, most_shared_bytes) > 0;
}

void launch_one_token_fc1_tiles(const MarlinParams& params, cudaStream_t stream, bool dependent) {
  start<true>(params, stream, dependent);
}

void launch_one_token_fc2_tiles(const MarlinParams& params, cudaStream_t stream, bool dependent) {
  start<false>(params, stream, dependent);
}

}  // namespace moe4::cuda
