// FC1 and the expert-wise FC2: weights stream from global memory once for every 8 tokens.
//
//   FC1   act[pair][i] = activation(alpha_gate (Wg x) + bias, alpha_up (Wu x) + bias)
//   FC2   y[pair][h]   = alpha_down (Wd act[pair]) + bias                       (float32)
//
// Work is a list of items (token tile, m32 step): token tiles hold up to 8 pairs of one expert, a
// step is two m16 tiles of packed_layout.h. Every group of `split` warps takes a contiguous range
// of items; inside a group the K of a step is dealt out in runs of units of 256 columns
// (sum_order.h), one a warp.
//
// Order of summation, the same for every batch: a warp adds its units in one accumulator, the
// group's partial sums are added in order of s.
//
// The partial sums go through shared memory. Writing and reducing are one step apart and
// synchronised by two mbarriers a buffer, so that no warp waits for the slowest at every step: in
// step n everyone multiplies, then step n - 1 is reduced (one warp an m16 tile, in turn), then the
// partial sums of step n are written.
//
// Decoding keeps the ALU pipe at two thirds of its rate, so every instruction of the loop counts:
// where a warp has one unit of K (H 2048, I 512, 768 and 2048), its tokens stay in registers for a
// whole token tile and the split is a constant.
//
// 16 warps an SM, in one block or two: at most 128 registers, which hold the tokens' B fragments
// and a step's weights. Shared memory: 9 KB a warp for the weights on their way (step_stream.cuh),
// 2 KB for the reduction, up to 47 KB a block for the routing.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/experts/gpu/block_routing.cuh"
#include "ops/experts/marlin/fc1_activation.cuh"
#include "ops/experts/marlin/marlin_kernels.h"
#include "ops/experts/marlin/step_stream.cuh"
#include "ops/experts/marlin/weight_step.cuh"
#include "ops/experts/marlin/work_split.cuh"

namespace moe4::cuda {
namespace {

// How a product is cut at compile time.
template <WeightFormat Format, bool kFc1, int kWarps, int kSplit, bool kOneUnit>
struct GemmConfig {
  static constexpr WeightFormat format = Format;
  static constexpr bool fc1 = kFc1;
  static constexpr int warps = kWarps;        // of a block; 16 an SM
  static constexpr int split = kSplit;        // warps that share the K of a step; 0: any above 1
  static constexpr bool one_unit = kOneUnit;  // a warp has one unit of each step
};

template <int kWarps>
struct ReductionBuffers {
  float4 partial[kWarps * 4][32];  // [group][buffer][m16 tile][warp of the group], by lane
  uint64_t full[kWarps][2];
  uint64_t empty[kWarps][2];
};

template <typename Config>
__device__ __forceinline__ int split_of(const MarlinParams& p) {
  if constexpr (Config::split != 0) return Config::split;
  return Config::fc1 ? p.fc1_split : p.fc2_split;
}

// Walks a warp's units of weights in the order of their multiplication.
template <typename Config>
class WeightCursor {
 public:
  __device__ __forceinline__ WeightCursor(const MarlinParams& p, const TileList& list,
                                          const GroupWork& work, int tile, int step)
      : matrix_(Config::fc1 ? p.layer.fc1 : p.layer.fc2),
        list_(list),
        steps_((Config::fc1 ? p.layer.fc1_tiles : p.layer.fc2_tiles) / 2),
        k_units_(Config::one_unit ? work.split
                                  : (Config::fc1 ? p.layer.fc1_k_units : p.layer.fc2_k_units)),
        warp_(work.warp),
        run_(Config::one_unit ? 1 : run_units(k_units_, work.split)),
        my_units_(Config::one_unit ? 1 : min(run_, k_units_ - warp_ * run_)),
        tile_(tile),
        step_(step) {
    if (work.count > 0) enter_tile();
  }

  __device__ __forceinline__ const uint8_t* weights() const { return weights_; }
  __device__ __forceinline__ int steps() const { return steps_; }
  __device__ __forceinline__ int my_units() const { return my_units_; }  // of a step
  __device__ __forceinline__ int first_unit() const { return warp_ * run_; }

  // To the next unit, which must exist.
  __device__ __forceinline__ void advance() {
    if (!Config::one_unit && ++unit_ < my_units_) {
      weights_ += kStepBytes;
      return;
    }
    unit_ = 0;
    if (++step_ < steps_) {
      weights_ += static_cast<int64_t>(k_units_ - my_units_ + 1) * kStepBytes;
      return;
    }
    step_ = 0;
    ++tile_;
    enter_tile();
  }

 private:
  __device__ __forceinline__ void enter_tile() {
    const int64_t step = static_cast<int64_t>(list_.tiles[tile_].expert) * steps_ + step_;
    weights_ = matrix_ + (step * k_units_ + warp_ * run_) * kStepBytes;
  }

  static constexpr int kStepBytes = UnitLayout<Config::format>::kStepBytes;
  const uint8_t* const matrix_;
  const TileList& list_;
  const int steps_, k_units_, warp_, run_, my_units_;
  int tile_, step_, unit_ = 0;
  const uint8_t* weights_ = nullptr;
};

// Start of this lane's token's row in a token tile, or null.
template <typename Config>
__device__ __forceinline__ const __nv_bfloat16* find_token_row(const MarlinParams& p,
                                                               const TileList& list, int tile_index,
                                                               int lane) {
  const TokenTile tile = list.tiles[tile_index];
  if (lane / 4 >= tile.count) return nullptr;
  const int pair = list.pairs[tile.first + lane / 4];
  if constexpr (Config::fc1) {
    const int row = p.layer.weight_on_input ? pair : static_cast<int>(p.top_k.divide(pair));
    return p.x + static_cast<int64_t>(row) * p.layer.hidden_size;
  } else {
    return p.act + static_cast<int64_t>(pair) * p.layer.intermediate_size;
  }
}

// Scales a token tile's sums and stores them; what they need is read once a tile.
template <typename Config>
class TileOutput {
 public:
  __device__ __forceinline__ void enter(const MarlinParams& p, const TileList& list, int tile_index,
                                        int lane) {
    const TokenTile tile = list.tiles[tile_index];
    expert_ = tile.expert;
    const int token = lane % 4 * 2;
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      pairs_[q] = token + q < tile.count ? list.pairs[tile.first + token + q] : -1;
    }
    if constexpr (Config::fc1) {
      scales_ = fc1_scales(p.layer, expert_);
    } else {
      scales_.up = p.layer.alpha_down[expert_];
    }
  }

  // sum.x, .y: row g of tokens 2t and 2t + 1; .z, .w: row g + 8.
  __device__ __forceinline__ void store(const MarlinParams& p, int m16_tile, int lane,
                                        float4 sum) const {
    const float top[2] = {sum.x, sum.y}, bottom[2] = {sum.z, sum.w};
    const PackedLayerView& layer = p.layer;
    if constexpr (Config::fc1) {
      store_activations(layer, p.act, expert_, scales_, m16_tile, lane / 4, pairs_, top, bottom);
      return;
    }
    if (m16_tile * kTileRows >= layer.hidden_size) return;  // a tile of padding
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int h = m16_tile * kTileRows + lane / 4 + 8 * half;
      const float bias =
          layer.bias_down == nullptr
              ? 0.0f
              : layer.bias_down[static_cast<int64_t>(expert_) * layer.hidden_size + h];
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        if (pairs_[q] < 0) continue;
        p.y[static_cast<int64_t>(pairs_[q]) * layer.hidden_size + h] =
            fmaf(half == 0 ? top[q] : bottom[q], scales_.up, bias);
      }
    }
  }

 private:
  int expert_ = 0, pairs_[2] = {-1, -1};
  Fc1Scales scales_;  // FC2: alpha_down in `up`
};

// Brings the partial sums of a group together.
class GroupReduction {
 public:
  template <typename Buffers>
  __device__ __forceinline__ GroupReduction(Buffers& buffers, const GroupWork& work, int lane)
      : partial_(buffers.partial + work.group * 4 * work.split),
        full_(buffers.full[work.group]),
        empty_(buffers.empty[work.group]),
        lane_(lane),
        turn_(work.warp) {}

  // Reduces step `n` of the group; steps come in order. `store` gets the m16 tile (0 or 1) and the
  // lane's sums. Tile i of step n is the business of warp (2 n + i) mod split.
  template <typename Store>
  __device__ __forceinline__ void reduce(int n, int split, Store store) {
    const int tile = turn_, buffer = n & 1;
    turn_ = turn_ < 2 ? turn_ + split - 2 : turn_ - 2;
    if (tile >= 2) return;
    barrier_wait(shared_address(&full_[buffer]), (n >> 1) & 1);
    const float4(*from)[32] = partial_ + (buffer * 2 + tile) * split;
    float4 sum = from[0][lane_];
#pragma unroll
    for (int s = 1; s < split; ++s) {
      const float4 other = from[s][lane_];
      sum.x += other.x;
      sum.y += other.y;
      sum.z += other.z;
      sum.w += other.w;
    }
    __syncwarp();
    warp_arrive(shared_address(&empty_[buffer]), lane_ == 0);
    store(tile, sum);
  }

  __device__ __forceinline__ void write(int n, int split, int warp, const float (&acc)[2][4]) {
    const int buffer = n & 1;
    barrier_wait(shared_address(&empty_[buffer]), ((n >> 1) & 1) ^ 1);
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      partial_[(buffer * 2 + tile) * split + warp][lane_] =
          make_float4(acc[tile][0], acc[tile][1], acc[tile][2], acc[tile][3]);
    }
    __syncwarp();
    warp_arrive(shared_address(&full_[buffer]), lane_ == 0);
  }

 private:
  float4 (*partial_)[32];
  uint64_t *full_, *empty_;
  const int lane_;
  int turn_;  // tile of the step this warp reduces next, if below 2
};

template <typename Config>
__global__ __launch_bounds__(32 * Config::warps, 16 / Config::warps) void expert_gemm_kernel(
    const __grid_constant__ MarlinParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  using Stream = StepStream<Config::format, 2, Config::warps>;
  using Buffers = ReductionBuffers<Config::warps>;
  auto& buffers = *reinterpret_cast<Buffers*>(shared + Stream::kSharedBytes);
  const int split = split_of<Config>(p), lane = lane_id();
  Stream stream(shared, lane);
  if (threadIdx.x < Config::warps / split * 2) {
    barrier_init(shared_address(&buffers.full[threadIdx.x / 2][threadIdx.x % 2]),
                 split * kWarpArrivals);
    barrier_init(shared_address(&buffers.empty[threadIdx.x / 2][threadIdx.x % 2]),
                 2 * kWarpArrivals);
  }
  // FC1 follows whatever made x and the ids, FC2 follows FC1: by the time FC2 runs its prologue all
  // that FC1 waited for is done, so only `act` has to be waited for.
  if (Config::fc1) {
    wait_for_previous_kernel();
    launch_dependents();
  }
  TileList list;
  if (p.tiles != nullptr) {
    __syncthreads();
    list = {p.tiles, p.sorted_pairs, *p.num_tiles};
  } else {
    list = route_in_block<32 * Config::warps>(
        p.layer, p.topk_ids, p.num_pairs,
        reinterpret_cast<int*>(shared + Stream::kSharedBytes + sizeof(Buffers)));
  }

  const int steps = (Config::fc1 ? p.layer.fc1_tiles : p.layer.fc2_tiles) / 2;
  const int last_block = (Config::fc1 ? p.layer.hidden_size : p.layer.intermediate_size) - 16;
  const GroupWork work = divide_items<Config::warps>(p.groups, split, list.num_tiles * steps);
  int tile = static_cast<int>(p.steps.divide(work.first)),
      step = work.first - tile * steps;  // of the item at hand
  WeightCursor<Config> cursor(p, list, work, tile, step);
  const int units = work.count * cursor.my_units();
  stream.start(0, cursor.weights(), units > 0);
  const auto start_others = [&] {
    for (int stage = 1; stage < min(Stream::kAhead, units); ++stage) {
      cursor.advance();
      stream.start(stage, cursor.weights(), true);
    }
  };
  if (!Config::fc1) {
    start_others();
    wait_for_previous_kernel();
    launch_dependents();
  }
  if (units == 0) return;
  TokenFragments tokens = {};
  const __nv_bfloat16* row = find_token_row<Config>(p, list, tile, lane);
  load_tokens(tokens, row, cursor.first_unit() * kUnitK, last_block, lane);
  if (Config::fc1) start_others();

  TileOutput<Config> output;
  GroupReduction reduction(buffers, work, lane);
  const auto reduce = [&](int n, int reduced_step) {
    reduction.reduce(n, split, [&](int half, float4 sum) {
      output.store(p, reduced_step * 2 + half, lane, sum);
    });
  };
  int to_start = units - Stream::kAhead, stage = 0;
  // Multiplies the unit at hand and starts one ahead.
  const auto multiply = [&](float(&acc)[2][4], auto refill_tokens) {
    const bool more = to_start > 0;
    --to_start;
    if (more) cursor.advance();
    stream.multiply(stage, tokens, acc, cursor.weights(), more, refill_tokens);
    stage ^= 1;
  };
  // Whether the item at hand is the first of its token tile. What the tile's sums need is read
  // after its first item: before the loop those loads would hold up the first multiplication.
  bool new_tile = true;
  for (int n = 0; n < work.count; ++n) {
    const bool last = n + 1 == work.count, last_step = step + 1 == steps;
    float acc[2][4] = {};
    if constexpr (Config::one_unit) {
      multiply(acc, [](int) {});
      if (last_step && !last) {
        row = find_token_row<Config>(p, list, tile + 1, lane);
        load_tokens(tokens, row, work.warp * kUnitK, last_block, lane);
      }
    } else {
      for (int unit = 0; unit < cursor.my_units(); ++unit) {
        int next = unit + 1;
        if (next == cursor.my_units()) {
          next = 0;
          if (last) {
            row = nullptr;
          } else if (last_step) {
            row = find_token_row<Config>(p, list, tile + 1, lane);
          }
        }
        multiply(acc, [&](int chunk) {
          load_chunk_tokens(tokens, row, (cursor.first_unit() + next) * kUnitK, last_block, lane,
                            chunk);
        });
      }
    }
    if constexpr (Config::split == 1) {
      if (new_tile) output.enter(p, list, tile, lane);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        output.store(p, step * 2 + half, lane,
                     make_float4(acc[half][0], acc[half][1], acc[half][2], acc[half][3]));
      }
    } else {
      if (n > 0) reduce(n - 1, (step == 0 ? steps : step) - 1);
      reduction.write(n, split, work.warp, acc);
      if (new_tile) output.enter(p, list, tile, lane);
    }
    new_tile = last_step;
    step = last_step ? 0 : step + 1;
    tile += last_step;
  }
  if constexpr (Config::split != 1) {
    reduce(work.count - 1, (step == 0 ? steps : step) - 1);
  }
}

struct ExpertGemm {
  void (*kernel)(MarlinParams);
  int warps;
  size_t reduction_bytes;
};

template <bool kFc1, int kWarps, int kSplit, bool kOneUnit>
ExpertGemm expert_gemm(const MarlinParams& p) {
  constexpr auto kNvfp4 = WeightFormat::kNvfp4, kMxfp4 = WeightFormat::kMxfp4;
  return {p.layer.format == kMxfp4
              ? expert_gemm_kernel<GemmConfig<kMxfp4, kFc1, kWarps, kSplit, kOneUnit>>
              : expert_gemm_kernel<GemmConfig<kNvfp4, kFc1, kWarps, kSplit, kOneUnit>>,
          kWarps, sizeof(ReductionBuffers<kWarps>)};
}

// Two blocks an SM start and end faster, one is as fast in between and routes once.
constexpr int kMaxTwoBlockPairs = 256;

ExpertGemm fc1_gemm(const MarlinParams& p) {
  const int split = p.fc1_split;
  if (split == 8 && p.layer.fc1_k_units == 8) {
    return p.num_pairs <= kMaxTwoBlockPairs ? expert_gemm<true, 8, 8, true>(p)
                                            : expert_gemm<true, 16, 8, true>(p);
  }
  if (split == 1) return expert_gemm<true, 8, 1, false>(p);
  return expert_gemm<true, 8, 0, false>(p);
}

ExpertGemm fc2_gemm(const MarlinParams& p) {
  const int split = p.fc2_split;
  if (split == 1) return expert_gemm<false, 8, 1, false>(p);
  const bool one_unit = split == p.layer.fc2_k_units;
  if (split == 2 && one_unit) {
    return p.num_pairs <= kMaxTwoBlockPairs ? expert_gemm<false, 8, 2, true>(p)
                                            : expert_gemm<false, 16, 2, true>(p);
  }
  // 15 of 16 warps work.
  if (split == 3 && one_unit) return expert_gemm<false, 16, 3, true>(p);
  if (split == 8 && one_unit) return expert_gemm<false, 8, 8, true>(p);
  return expert_gemm<false, 16, 0, false>(p);
}

size_t gemm_shared_bytes(const ExpertGemm& gemm, const MarlinParams& p) {
  const int64_t routing_bytes =
      p.tiles == nullptr ? block_routing_bytes(p.num_pairs, p.layer.num_local_experts) : 0;
  return step_stream_bytes(p.layer.format, 2, gemm.warps, p.bulk_copies) + gemm.reduction_bytes +
         static_cast<size_t>(routing_bytes);
}

void launch_expert_gemm(const ExpertGemm& gemm, int split, int tiles, MarlinParams params,
                        cudaStream_t stream, bool dependent) {
  const int blocks = params.sm_count * (16 / gemm.warps);
  params.groups = Divisor(blocks * (gemm.warps / split));
  params.steps = Divisor(tiles / 2);
  launch(gemm.kernel,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(static_cast<unsigned>(32 * gemm.warps)),
          .shared_bytes = gemm_shared_bytes(gemm, params),
          .stream = stream,
          .dependent = dependent},
         params);
}

}  // namespace

void allow_expert_shared_memory(MarlinParams params, size_t bytes) {
  for (const int num_pairs : {kMaxTwoBlockPairs, kMaxBlockPairs}) {
    params.num_pairs = num_pairs;
    for (const auto& gemm : {fc1_gemm(params), fc2_gemm(params)}) {
      MOE4_CUDA_CHECK(cudaFuncSetAttribute(gemm.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(bytes)));
    }
  }
}

void launch_fc1(const MarlinParams& params, cudaStream_t stream, bool dependent) {
  launch_expert_gemm(fc1_gemm(params), params.fc1_split, params.layer.fc1_tiles, params, stream,
                     dependent);
}

void launch_fc2_experts(const MarlinParams& params, cudaStream_t stream, bool dependent) {
  launch_expert_gemm(fc2_gemm(params), params.fc2_split, params.layer.fc2_tiles, params, stream,
                     dependent);
}

}  // namespace moe4::cuda
