// FC1 and the expert-wise FC2: weights stream from global memory once for every 8 tokens.
//
//   FC1   act[pair][i] = activation(alpha_gate (Wg x) + bias, alpha_up (Wu x) + bias)
//   FC2   y[pair][h]   = alpha_down (Wd act[pair]) + bias                       (float32)
//
// Work is a list of items (token tile, m32 step): token tiles hold up to 8 pairs of one expert, a
// step is two m16 tiles of packed_layout.h. Every group of `split` warps takes a contiguous range
// of items; inside a group the K of a step is dealt out in units of 256 columns, warp s takes units
// s, s + split, ...
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
// 16 warps an SM, in one block or two: at most 128 registers, which hold 4.6 KB of weights in
// flight and the tokens' B fragments. 2 KB of shared memory a warp for the reduction, up to 25 KB a
// block for the routing.
#include "experts/device/barrier.cuh"
#include "experts/device/block_routing.cuh"
#include "experts/device/launch.h"
#include "experts/marlin/fc1_activation.cuh"
#include "experts/marlin/marlin_kernels.h"
#include "experts/marlin/weight_step.cuh"
#include "experts/marlin/work_split.cuh"

namespace moe4::cuda {
namespace {

// How a product is cut at compile time.
template <bool kFc1, int kWarps, int kSplit, bool kOneUnit>
struct GemmConfig {
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

// Walks the units of a warp, one ahead of the multiplication.
template <typename Config>
class StepCursor {
 public:
  __device__ __forceinline__ StepCursor(const MarlinParams& p, const TileList& list,
                                        const GroupWork& work, int lane)
      : p_(p),
        list_(list),
        token_(lane / 4),
        split_(work.split),
        warp_(work.warp),
        k_units_(Config::one_unit ? work.split
                                  : (Config::fc1 ? p.layer.fc1_k_units : p.layer.fc2_k_units)),
        steps_((Config::fc1 ? p.layer.fc1_tiles : p.layer.fc2_tiles) / 2),
        my_units_(Config::one_unit ? 1 : (k_units_ - warp_ + split_ - 1) / split_) {
    tile_ = p.steps.quotient(work.first);
    step_ = work.first - tile_ * steps_;
    if (work.count > 0) enter_tile();
  }

  __device__ __forceinline__ const uint8_t* weights() const { return weights_; }
  __device__ __forceinline__ int tile() const { return tile_; }
  __device__ __forceinline__ int step() const { return step_; }
  __device__ __forceinline__ int steps() const { return steps_; }
  __device__ __forceinline__ int my_units() const { return my_units_; }
  __device__ __forceinline__ int column() const { return (warp_ + unit_ * split_) * kUnitK; }

  // Start of this lane's token's row, or null.
  __device__ __forceinline__ const __nv_bfloat16* token_row() const {
    return Config::one_unit ? find_token_row() : row_;
  }

  // To the warp's next unit of the same item.
  __device__ __forceinline__ void next_unit() {
    ++unit_;
    weights_ += static_cast<int64_t>(split_) * kStepBytes;
  }

  // To the next item, if there are `more`; whether it belongs to another token tile.
  __device__ __forceinline__ bool next_item(bool more) {
    unit_ = 0;
    if (++step_ < steps_) {
      weights_ += static_cast<int64_t>(k_units_ - (my_units_ - 1) * split_) * kStepBytes;
      return false;
    }
    ++tile_;
    step_ = 0;
    if (more) enter_tile();
    return more;
  }

 private:
  __device__ __forceinline__ void enter_tile() {
    const uint8_t* matrix = Config::fc1 ? p_.layer.fc1 : p_.layer.fc2;
    const int64_t steps = static_cast<int64_t>(list_.tiles[tile_].expert) * steps_ + step_;
    weights_ = matrix + (steps * k_units_ + warp_) * kStepBytes;
    if constexpr (!Config::one_unit) row_ = find_token_row();
  }
  __device__ __forceinline__ const __nv_bfloat16* find_token_row() const {
    const TokenTile tile = list_.tiles[tile_];
    if (token_ >= tile.count) return nullptr;
    const int pair = list_.pairs[tile.first + token_];
    if constexpr (Config::fc1) {
      const int row = p_.layer.weight_on_input ? pair : p_.top_k.quotient(pair);
      return p_.x + static_cast<int64_t>(row) * p_.layer.hidden_size;
    } else {
      return p_.act + static_cast<int64_t>(pair) * p_.layer.intermediate_size;
    }
  }

  const MarlinParams& p_;
  const TileList& list_;
  const int token_, split_, warp_, k_units_, steps_, my_units_;
  int tile_, step_, unit_ = 0;
  const uint8_t* weights_ = nullptr;
  const __nv_bfloat16* row_ = nullptr;  // where a step's tokens differ from the last one's
};

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
    barrier_wait(&full_[buffer], (n >> 1) & 1);
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
    if (lane_ == 0) barrier_arrive(&empty_[buffer]);
    store(tile, sum);
  }

  __device__ __forceinline__ void write(int n, int split, int warp, const float (&acc)[2][4]) {
    const int buffer = n & 1;
    barrier_wait(&empty_[buffer], ((n >> 1) & 1) ^ 1);
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      partial_[(buffer * 2 + tile) * split + warp][lane_] =
          make_float4(acc[tile][0], acc[tile][1], acc[tile][2], acc[tile][3]);
    }
    __syncwarp();
    if (lane_ == 0) barrier_arrive(&full_[buffer]);
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
  extern __shared__ __align__(16) uint8_t shared[];
  using Buffers = ReductionBuffers<Config::warps>;
  auto& buffers = *reinterpret_cast<Buffers*>(shared);
  const int split = split_of<Config>(p), lane = lane_id();
  if (threadIdx.x < Config::warps / split * 2) {
    barrier_init(&buffers.full[threadIdx.x / 2][threadIdx.x % 2], split);
    barrier_init(&buffers.empty[threadIdx.x / 2][threadIdx.x % 2], 2);
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
    list = route_in_block<32 * Config::warps>(p.layer, p.topk_ids, p.num_pairs,
                                              reinterpret_cast<int*>(shared + sizeof(Buffers)));
  }

  const int steps = (Config::fc1 ? p.layer.fc1_tiles : p.layer.fc2_tiles) / 2;
  const int last_block = (Config::fc1 ? p.layer.hidden_size : p.layer.intermediate_size) - 16;
  const GroupWork work = divide_items<Config::warps>(p.groups, split, list.num_tiles * steps);
  StepCursor<Config> cursor(p, list, work, lane);
  WeightFragments<2> weights = {};
  load_weights(weights, cursor.weights(), work.count > 0, lane);
  if (!Config::fc1) {
    wait_for_previous_kernel();
    launch_dependents();
  }
  if (work.count == 0) return;
  TokenFragments tokens = {};
  load_tokens(tokens, cursor.token_row(), cursor.column(), last_block, lane);

  TileOutput<Config> output;
  GroupReduction reduction(buffers, work, lane);
  const auto reduce = [&](int n, int step) {
    reduction.reduce(n, split,
                     [&](int half, float4 sum) { output.store(p, step * 2 + half, lane, sum); });
  };
  // Whether the item to multiply is the first of its token tile. What the tile's sums need is read
  // after its first item: before the loop those loads would hold up the first multiplication.
  bool new_tile = true;
  for (int n = 0; n < work.count; ++n) {
    const bool more = n + 1 < work.count, enter_tile = new_tile;
    float acc[2][4] = {};
    if constexpr (Config::one_unit) {
      new_tile = cursor.next_item(more);
      multiply_step(weights, tokens, acc, cursor.weights(), more, lane, [](int) {});
      if (new_tile) load_tokens(tokens, cursor.token_row(), cursor.column(), last_block, lane);
    } else {
      for (int left = cursor.my_units() - 1; left >= 0; --left) {
        if (left > 0) {
          cursor.next_unit();
        } else {
          new_tile = cursor.next_item(more);
        }
        const bool valid = left > 0 || more;
        const __nv_bfloat16* const row = valid ? cursor.token_row() : nullptr;
        multiply_step(weights, tokens, acc, cursor.weights(), valid, lane, [&](int chunk) {
          load_chunk_tokens(tokens, row, cursor.column(), last_block, lane, chunk);
        });
      }
    }
    // The cursor is one item ahead.
    const bool wrapped = cursor.step() == 0;
    const int tile = cursor.tile() - (wrapped ? 1 : 0);
    const int step = (wrapped ? cursor.steps() : cursor.step()) - 1;
    if constexpr (Config::split == 1) {
      if (enter_tile) output.enter(p, list, tile, lane);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        output.store(p, step * 2 + half, lane,
                     make_float4(acc[half][0], acc[half][1], acc[half][2], acc[half][3]));
      }
    } else {
      if (n > 0) reduce(n - 1, (step == 0 ? cursor.steps() : step) - 1);
      reduction.write(n, split, work.warp, acc);
      if (enter_tile) output.enter(p, list, tile, lane);
    }
  }
  if constexpr (Config::split != 1) {
    reduce(work.count - 1, (cursor.step() == 0 ? cursor.steps() : cursor.step()) - 1);
  }
}

struct ExpertGemm {
  void (*kernel)(MarlinParams);
  int warps;
  size_t reduction_bytes;
};

template <bool kFc1, int kWarps, int kSplit, bool kOneUnit>
ExpertGemm expert_gemm() {
  return {expert_gemm_kernel<GemmConfig<kFc1, kWarps, kSplit, kOneUnit>>, kWarps,
          sizeof(ReductionBuffers<kWarps>)};
}

// Two blocks an SM start and end faster, one is as fast in between and routes once.
constexpr int kMaxTwoBlockPairs = 256;

ExpertGemm fc1_gemm(const MarlinParams& p) {
  const int split = p.fc1_split;
  if (split == 8 && p.layer.fc1_k_units == 8) {
    return p.num_pairs <= kMaxTwoBlockPairs ? expert_gemm<true, 8, 8, true>()
                                            : expert_gemm<true, 16, 8, true>();
  }
  if (split == 1) return expert_gemm<true, 8, 1, false>();
  return expert_gemm<true, 8, 0, false>();
}

ExpertGemm fc2_gemm(const MarlinParams& p) {
  const int split = p.fc2_split;
  if (split == 1) return expert_gemm<false, 8, 1, false>();
  const bool one_unit = split == p.layer.fc2_k_units;
  if (split == 2 && one_unit) {
    return p.num_pairs <= kMaxTwoBlockPairs ? expert_gemm<false, 8, 2, true>()
                                            : expert_gemm<false, 16, 2, true>();
  }
  // 15 of 16 warps work.
  if (split == 3 && one_unit) return expert_gemm<false, 16, 3, true>();
  if (split == 8 && one_unit) return expert_gemm<false, 8, 8, true>();
  return expert_gemm<false, 16, 0, false>();
}

void launch_expert_gemm(const ExpertGemm& gemm, int split, int tiles, MarlinParams params,
                        cudaStream_t stream, bool dependent) {
  const int64_t routing_bytes =
      params.tiles == nullptr
          ? block_routing_bytes(params.num_pairs, params.layer.num_local_experts)
          : 0;
  const int blocks = params.sm_count * (16 / gemm.warps);
  params.groups = FastDivisor(blocks * (gemm.warps / split));
  params.steps = FastDivisor(tiles / 2);
  launch(gemm.kernel,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(static_cast<unsigned>(32 * gemm.warps)),
          .shared_bytes = gemm.reduction_bytes + static_cast<size_t>(routing_bytes),
          .stream = stream,
          .dependent = dependent},
         params);
}

}  // namespace

void allow_expert_shared_memory(MarlinParams params) {
  for (const int num_pairs : {1, kMaxTwoBlockPairs + 1}) {
    params.num_pairs = num_pairs;
    for (const auto& gemm : {fc1_gemm(params), fc2_gemm(params)}) {
      MOE4_CUDA_CHECK(cudaFuncSetAttribute(gemm.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           80 * 1024));
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
