// One token of a large layer (DeepSeek-V3): the bits of wgmma in less time.
//
//   FC1  act[slot][i] = activation(alpha_gate (Wg x) + bias, alpha_up (Wu x) + bias)
//   FC2  output = sum over slots of weight * (alpha_down (Wd act[slot]) + bias)
//
// An item is m16 rows of FC1 or m32 rows of FC2 of one expert, with all of K in one chain of
// mma.sync along k, which adds as wgmma does. A warp has its own ring of two units of weights,
// brought by bulk copies; FC1 reads the token from shared memory, FC2 the activations from L2, a
// unit ahead.
//
// FC1's items are a list that the warps share. A block of FC2 has the same m32 rows of all slots, a
// warp each, so that it can add them: by way of quads (hopper/pair_output.cuh) in shared memory,
// which round as those between the launches of larger calls.
//
// Nearly every warp of the GPU has one item of FC1, so that all of them end together, and FC2 would
// wait for a kernel's end, its own start and its first weights. Therefore a multiprocessor has room
// for FC1's block (16 warps of 72 registers, 88 KB at H = 7168) and one of FC2's two (8 warps of
// 96, 76 KB), which starts beside it and has weights of two units a warp when FC1 ends. The other
// follows FC1's.
//
// A lane knows a slot: each warp sorts them for itself.
#include <algorithm>

#include "device/cuda/divisor.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/experts/gpu/decode.cuh"
#include "ops/experts/hopper/hopper_kernels.h"
#include "ops/experts/hopper/pair_output.cuh"
#include "ops/experts/marlin/fc1_activation.cuh"

namespace moe4::cuda::hopper {
namespace {

constexpr int kMaxSlots = 32;
constexpr int kMaxTokenBytes = 64 * 1024;
constexpr int kStages = 2;
constexpr int kTilePairs = 8;  // columns of mma.sync
constexpr int kQuads = 8;      // of m32 rows

struct OneTokenArgs {
  PackedLayerView layer;
  const __nv_bfloat16* x;     // [H]
  const int32_t* topk_ids;    // [k]
  const float* topk_weights;  // [k]
  __nv_bfloat16* act;         // [k, I]
  __nv_bfloat16* output;      // [H]
  Divisor blocks, steps;      // of FC1
};

template <WeightFormat Format, bool kFc1>
struct OneTokenShape {
  static constexpr bool kFirst = kFc1;
  static constexpr int kTiles = kFc1 ? 1 : 2;  // m16 tiles of an item
  static constexpr int kWarps = kFc1 ? 16 : 8;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlocksPerSm = kFc1 ? 1 : 2;
  // 112 registers at most, of which FC2 takes 96; for its 256 threads alone it would take more than
  // FC1 leaves.
  static constexpr int kThreadsOfRegisters = kFc1 ? kThreads : kThreads + 32;
  static constexpr int kAhead = kFc1 ? 1 : kChunks;  // chunks of tokens in registers
  static constexpr int kStageBytes = kTiles * UnitLayout<Format>::kBytes;
  static constexpr int kBarrierOffset = kWarps * kStages * kStageBytes;
  static constexpr int kTokenBarrierOffset = kBarrierOffset + kWarps * kStages * 8;
  // Behind the barriers: FC1 has the token, FC2 quads, uint2 [slot][kQuads].
  static constexpr int kDataOffset = kTokenBarrierOffset + 16;
  static constexpr size_t shared_bytes(int64_t token_bytes) {
    return kDataOffset + (kFc1 ? static_cast<size_t>(token_bytes) : size_t{kMaxSlots} * kQuads * 8);
  }
};

// Tiles of up to kTilePairs slots of one expert, in the order of their first ones. A token may name
// an expert more than once.
class SlotTiles {
 public:
  __device__ __forceinline__ SlotTiles(const OneTokenArgs& args, int lane)
      : expert_(lane < args.layer.top_k ? args.layer.local_expert(args.topk_ids[lane]) : -1),
        same_(__match_any_sync(~0u, expert_)) {
    const int rank = __popc(same_ & ((1u << lane) - 1));
    leaders_ = __ballot_sync(~0u, expert_ >= 0 && rank % kTilePairs == 0);
  }
  __device__ __forceinline__ int count() const { return __popc(leaders_); }
  // Bit i: slot i has an expert here.
  __device__ __forceinline__ uint32_t counting_slots() const {
    return __ballot_sync(~0u, expert_ >= 0);
  }

  __device__ __forceinline__ int expert(int tile) const {
    return __shfl_sync(~0u, expert_, leader(tile));
  }
  // Bit i: slot i. The tile has the first kTilePairs of them.
  __device__ __forceinline__ uint32_t slots(int tile) const {
    const int first = leader(tile);
    return __shfl_sync(~0u, same_, first) & (~0u << first);
  }

 private:
  __device__ __forceinline__ int leader(int tile) const {
    uint32_t left = leaders_;
#pragma unroll 1
    for (; tile > 0; --tile) left &= left - 1;
    return __ffs(static_cast<int>(left)) - 1;
  }

  int expert_;
  uint32_t same_, leaders_;
};

// Slot of column `n` of a tile, or -1.
__device__ __forceinline__ int slot_of_column(uint32_t slots, int n) {
#pragma unroll
  for (int i = 0; i < kTilePairs - 1; ++i) slots = i < n ? slots & (slots - 1) : slots;
  return __ffs(static_cast<int>(slots)) - 1;
}

// acc += a unit's weights, at `unit` in shared memory, times columns from `column` on.
// load_tokens(column, to) gets the 16 columns of a lane, kAhead chunks before their use.
template <WeightFormat Format, int kTiles, int kAhead, class LoadTokens>
__device__ __forceinline__ void multiply_unit(uint32_t unit, int column, int last_block, int lane,
                                              LoadTokens load_tokens, uint4 (&tokens)[kAhead][2],
                                              float (&acc)[kTiles][4]) {
  using Unit = UnitLayout<Format>;
  uint2 scale_bytes[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    scale_bytes[tile] = load_shared8(unit + tile * Unit::kBytes + Unit::scales(lane));
  }
  const int block = column + (lane & 3) * 16;
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    uint4 words[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      words[tile] = load_shared16(unit + tile * Unit::kBytes + chunk * 512 + lane * 16);
    }
    uint32_t scales[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      scales[tile] = chunk == 0   ? decode_scales<Format, 0>(scale_bytes[tile])
                     : chunk == 1 ? decode_scales<Format, 1>(scale_bytes[tile])
                     : chunk == 2 ? decode_scales<Format, 2>(scale_bytes[tile])
                                  : decode_scales<Format, 3>(scale_bytes[tile]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 b = tokens[chunk % kAhead][half];
      uint32_t a[kTiles][8];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        decode_pairs(half == 0 ? words[tile].x : words[tile].z,
                     half == 0 ? words[tile].y : words[tile].w, scales[tile], a[tile]);
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) mma_m16n8k16(acc[tile], a[tile], b.x, b.y);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) mma_m16n8k16(acc[tile], a[tile] + 4, b.z, b.w);
    }
    // Past K weights are zeros, as in marlin/weight_step.cuh.
    load_tokens(min(block + (chunk + kAhead) * kChunkK, last_block), tokens[chunk % kAhead]);
  }
}

// FC2: rows g, g + 8 of both m16 tiles of `step`, as wgmma's epilogue rounds them, to `quads` in
// shared memory.
__device__ __forceinline__ void store_quads(const PackedLayerView& layer, int expert, float alpha,
                                            int step, int g, const int (&slots)[2],
                                            float (&acc)[2][4], uint32_t quads) {
  if (layer.bias_down != nullptr) {
    const float* bias = layer.bias_down + static_cast<int64_t>(expert) * layer.hidden_size;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int row = (step * 2 + i / 4) * kTileRows + g + (i % 4 < 2 ? 0 : 8);
      acc[i / 4][i % 4] =
          fmaf(acc[i / 4][i % 4], alpha, row < layer.hidden_size ? bias[row] : 0.0f);
    }
    alpha = 1.0f;
  }
  const QuadEncoder encoder(alpha);
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    if (slots[q] < 0) continue;
    store_shared8(quads + (slots[q] * kQuads + g) * 8,
                  encoder.encode(acc[0][q], acc[0][2 + q], acc[1][q], acc[1][2 + q]));
  }
}

// The weighted sum of `slots` in their order, as combine_sm90.cu adds them; lane s has the weight
// of slot s. A lane adds one quad.
__device__ __forceinline__ void store_sums(const OneTokenArgs& args, uint32_t slots, float weight,
                                           int step, int lane, uint32_t quads) {
  float sum[4] = {};
#pragma unroll 1
  for (; slots != 0; slots &= slots - 1) {
    const int slot = __ffs(static_cast<int>(slots)) - 1;
    const float slot_weight = __shfl_sync(~0u, weight, slot);
    add_quad(load_shared8(quads + (slot * kQuads + lane % kQuads) * 8), slot_weight, sum);
  }
  const int first = step * 2 * kTileRows + lane;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = first + i * kQuads;
    if (lane < kQuads && row < args.layer.hidden_size) {
      args.output[row] = __float2bfloat16_rn(sum[i]);
    }
  }
}

template <WeightFormat Format, bool kFc1>
__global__ __launch_bounds__(OneTokenShape<Format, kFc1>::kThreadsOfRegisters,
                             OneTokenShape<Format, kFc1>::kBlocksPerSm)  //
    void one_token_kernel(const __grid_constant__ OneTokenArgs args) {
  using Shape = OneTokenShape<Format, kFc1>;
  constexpr int kTiles = Shape::kTiles, kWarps = Shape::kWarps;
  extern __shared__ __align__(128) uint8_t shared[];
  const PackedLayerView& layer = args.layer;
  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x) / 32;
  const uint32_t base = shared_address(shared);
  const uint32_t ring = base + warp * kStages * Shape::kStageBytes;
  const uint32_t full = base + Shape::kBarrierOffset + warp * kStages * 8;
  const uint32_t token_full = base + Shape::kTokenBarrierOffset;
  if (lane == 0) {
    for (int stage = 0; stage < kStages; ++stage) barrier_init(full + 8 * stage, 1);
    if (warp == 0) barrier_init(token_full, 1);
    fence_barrier_init();
  }
  // By the time FC2 runs its prologue all that FC1 waited for is done.
  if constexpr (kFc1) {
    __syncthreads();
    wait_for_previous_kernel();
    launch_dependents();
    if (threadIdx.x == 0) {
      const uint32_t bytes = layer.hidden_size * 2;
      barrier_expect(token_full, bytes);
      bulk_copy(base + Shape::kDataOffset, args.x, bytes, token_full);
    }
  }
  __syncwarp();
  const SlotTiles tiles(args, lane);
  float weight = 0.0f;  // FC2: of slot `lane`
  if (!kFc1 && lane < layer.top_k) weight = quad_weight(args.topk_weights[lane]);

  const int steps = (kFc1 ? layer.fc1_tiles : layer.fc2_tiles) / kTiles;
  const int k_units = kFc1 ? layer.fc1_k_units : layer.fc2_k_units;
  const int last_block = (kFc1 ? layer.hidden_size : layer.intermediate_size) - 16;
  const int blocks = static_cast<int>(gridDim.x), block_id = static_cast<int>(blockIdx.x);
  int count, tile, step;  // items of this warp, the first one
  if constexpr (kFc1) {
    // A block has consecutive items, its warps take turns.
    const int items = tiles.count() * steps;
    const int share = static_cast<int>(args.blocks.divide(items)), more = items - share * blocks;
    const int in_block = share + (block_id < more ? 1 : 0);
    const int first = block_id * share + min(block_id, more) + warp;
    count = (in_block - warp + kWarps - 1) / kWarps;
    tile = static_cast<int>(args.steps.divide(first));
    step = first - tile * steps;
  } else {
    // A block has steps, one after the other, its warps all tiles of each.
    const int tiles_of_warp = (tiles.count() - warp + kWarps - 1) / kWarps;
    count = (steps - block_id + blocks - 1) / blocks * tiles_of_warp;
    tile = warp;
    step = block_id;
  }
  const auto next_item = [&](int& of_tile, int& of_step) {
    if constexpr (kFc1) {
      of_step += kWarps;
      while (of_step >= steps) {
        of_step -= steps;
        ++of_tile;
      }
    } else {
      of_tile += kWarps;
      if (of_tile < tiles.count()) return;
      of_tile = warp;
      of_step += blocks;
    }
  };

  // The weights on their way: units left to start, the next one's place.
  int to_start = count * k_units, start_tile = tile, start_step = step, start_unit = 0;
  const uint8_t* weights = nullptr;
  const auto enter_item = [&] {
    weights = (kFc1 ? layer.fc1 : layer.fc2) + unit_index(kFc1 ? layer.fc1_tiles : layer.fc2_tiles,
                                                          k_units, tiles.expert(start_tile),
                                                          start_step * kTiles, 0) *
                                                   UnitLayout<Format>::kBytes;
  };
  const auto start = [&](int stage) {
    if (to_start <= 0) return;
    --to_start;
    if (lane == 0) {
      barrier_expect(full + 8 * stage, Shape::kStageBytes);
      bulk_copy(ring + stage * Shape::kStageBytes, weights, Shape::kStageBytes, full + 8 * stage);
    }
    weights += UnitLayout<Format>::kStepBytes;
    if (++start_unit < k_units || to_start == 0) return;
    start_unit = 0;
    next_item(start_tile, start_step);
    enter_item();
  };
  if (count > 0) enter_item();
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) start(stage);
  if constexpr (kFc1) {
    barrier_wait(token_full, 0);
  } else {
    wait_for_previous_kernel();
    launch_dependents();
  }

  int stage = 0;
  uint32_t phase = 0;
  const auto run_item = [&] {
    const int expert = tiles.expert(tile);
    const uint32_t slots = tiles.slots(tile);
    const int my_slot = slot_of_column(slots, lane / 4);
    Fc1Scales scales;  // FC2: alpha_down in `up`
    if constexpr (kFc1) {
      scales = fc1_scales(layer, expert);
    } else {
      scales.up = layer.alpha_down[expert];
    }
    const __nv_bfloat16* const row =
        args.act + static_cast<int64_t>(max(my_slot, 0)) * layer.intermediate_size;
    const auto load_tokens = [&](int column, uint4(&to)[2]) {
      if constexpr (kFc1) {
        to[0] = load_shared16(base + Shape::kDataOffset + column * 2);
        to[1] = load_shared16(base + Shape::kDataOffset + column * 2 + 16);
      } else {
        load_cached16_if(my_slot >= 0, row + column, to[0]);
        load_cached16_if(my_slot >= 0, row + column + 8, to[1]);
      }
    };
    uint4 tokens[Shape::kAhead][2] = {};
#pragma unroll
    for (int chunk = 0; chunk < Shape::kAhead; ++chunk) {
      load_tokens(min((lane & 3) * 16 + chunk * kChunkK, last_block), tokens[chunk]);
    }
    float acc[kTiles][4] = {};
#pragma unroll 1
    for (int unit = 0; unit < k_units; ++unit) {
      barrier_wait(full + 8 * stage, phase);
      multiply_unit<Format, kTiles>(ring + stage * Shape::kStageBytes, unit * kUnitK, last_block,
                                    lane, load_tokens, tokens, acc);
      __syncwarp();  // every lane has its words
      start(stage);
      if (++stage == kStages) {
        stage = 0;
        phase ^= 1;
      }
    }
    const int columns[2] = {slot_of_column(slots, lane % 4 * 2),
                            slot_of_column(slots, lane % 4 * 2 + 1)};
    if constexpr (kFc1) {
      const float top[2] = {acc[0][0], acc[0][1]}, bottom[2] = {acc[0][2], acc[0][3]};
      store_activations(layer, args.act, expert, scales, step, lane / 4, columns, top, bottom);
    } else {
      store_quads(layer, expert, scales.up, step, lane / 4, columns, acc,
                  base + Shape::kDataOffset);
    }
    next_item(tile, step);
  };
  if constexpr (kFc1) {
#pragma unroll 1
    for (; count > 0; --count) run_item();
  } else {
#pragma unroll 1
    for (int of_block = block_id; of_block < steps; of_block += blocks) {
#pragma unroll 1
      for (; count > 0 && step == of_block; --count) run_item();
      __syncthreads();
      if (warp == 0) {
        store_sums(args, tiles.counting_slots(), weight, of_block, lane, base + Shape::kDataOffset);
      }
      __syncthreads();  // the quads are read
    }
  }
}

// Calls `run` with the shape and the kernel of FC1, then of FC2.
template <class Run>
void for_both_kernels(WeightFormat format, Run run) {
  const auto with_format = [&]<WeightFormat Format>() {
    run(OneTokenShape<Format, true>(), one_token_kernel<Format, true>);
    run(OneTokenShape<Format, false>(), one_token_kernel<Format, false>);
  };
  if (format == WeightFormat::kMxfp4) {
    with_format.template operator()<WeightFormat::kMxfp4>();
  } else {
    with_format.template operator()<WeightFormat::kNvfp4>();
  }
}

}  // namespace

bool has_one_token_kernels(const PackedLayerView& layer) {
  return layer.top_k <= kMaxSlots && layer.hidden_size * 2 <= kMaxTokenBytes &&
         !layer.weight_on_input;
}

void launch_one_token(const Call& call, cudaStream_t stream) {
  const PackedLayerView& layer = call.layer;
  OneTokenArgs args = {
      .layer = layer,
      .x = static_cast<const __nv_bfloat16*>(call.hidden_states),
      .topk_ids = call.topk_ids,
      .topk_weights = call.topk_weights,
      .act = static_cast<__nv_bfloat16*>(call.scratch.intermediate),
      .output = static_cast<__nv_bfloat16*>(call.output),
      .blocks = Divisor(call.sm_count),
      .steps = Divisor(layer.fc1_tiles),
  };
  for_both_kernels(layer.format, [&]<class Shape>(Shape, void (*kernel)(OneTokenArgs)) {
    const int blocks = Shape::kFirst ? call.sm_count
                                     : std::min(Shape::kBlocksPerSm * call.sm_count,
                                                layer.fc2_tiles / Shape::kTiles);
    launch(kernel,
           {.grid = dim3(static_cast<unsigned>(blocks)),
            .block = dim3(Shape::kThreads),
            .shared_bytes = Shape::shared_bytes(int64_t{layer.hidden_size} * 2),
            .stream = stream,
            .dependent = true},
           args);
  });
}

void prepare_one_token(WeightFormat format) {
  for_both_kernels(format, []<class Shape>(Shape, void (*kernel)(OneTokenArgs)) {
    MOE4_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(Shape::shared_bytes(kMaxTokenBytes))));
    // A multiprocessor changes how much shared memory it has only when idle, and blocks of both
    // kernels are to meet there.
    MOE4_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                         cudaSharedmemCarveoutMaxShared));
  });
}

}  // namespace moe4::cuda::hopper
