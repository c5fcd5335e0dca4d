// FC1 and the expert-wise FC2: weights stream from global memory once for every 8 tokens.
//
//   FC1   act[pair][i] = activation(alpha_gate (Wg x) + bias, alpha_up (Wu x) + bias)
//   FC2   y[pair][h]   = alpha_down (Wd act[pair]) + bias                       (float32)
//
// Work is a list of items (token tile, m32 step): token tiles hold up to 8 pairs of one expert, a
// step is two m16 tiles of packed_layout.h. Every group of `split` warps takes a contiguous range
// of items; inside a group the K of a step is dealt out in units of 256 columns, warp s takes units
// s, s + split, ... FC2 has split 1: a warp does a whole step.
//
// Order of summation, the same for every batch: a warp adds its units in one accumulator, the
// group's partial sums are added in order of s (FC1); each unit is summed apart and the units are
// added in order (FC2, as the row-stationary kernel does).
//
// FC1's partial sums go through shared memory. Writing and reducing are one step apart and
// synchronised by two mbarriers a buffer, so that no warp waits for the slowest at every step: in
// step n everyone multiplies, then step n - 1 is reduced (one warp an m16 tile, in turn), then the
// partial sums of step n are written.
//
// 256 threads, two blocks an SM: at most 128 registers, which hold 4.6 KB of weights in flight and
// the tokens' B fragments. 16 KB of shared memory for the reduction, up to 25 KB for the routing.
#include "experts/device/activation.cuh"
#include "experts/device/barrier.cuh"
#include "experts/device/block_routing.cuh"
#include "experts/device/launch.h"
#include "experts/marlin/marlin_kernels.h"
#include "experts/marlin/weight_step.cuh"

namespace moe4::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;

struct ReductionBuffers {
  float4 partial[kWarps * 4][32];  // [group][buffer][m16 tile][warp of the group], by lane
  uint64_t full[kWarps][2];
  uint64_t empty[kWarps][2];
};

// The units a warp still has to fetch, in the order it multiplies them.
template <bool kFc1>
class UnitCursor {
 public:
  __device__ __forceinline__ UnitCursor(const MarlinParams& p, const TileList& list, int64_t first,
                                        int64_t last, int split, int warp_in_group, int lane)
      : p_(p),
        list_(list),
        token_(lane / 4),
        split_(split),
        warp_(warp_in_group),
        k_units_(kFc1 ? p.layer.fc1_k_units : p.layer.fc2_k_units),
        steps_((kFc1 ? p.layer.fc1_tiles : p.layer.fc2_tiles) / 2),
        my_units_((k_units_ - warp_in_group + split - 1) / split),
        items_left_(static_cast<int>(last - first)) {
    if (items_left_ == 0) return;
    source_.valid = true;
    tile_ = static_cast<int>(first / steps_);
    step_ = static_cast<int>(first - static_cast<int64_t>(tile_) * steps_);
    enter_tile();
  }

  __device__ __forceinline__ const StepSource& source() const { return source_; }
  __device__ __forceinline__ int my_units() const { return my_units_; }

  // Moves to the next unit; whether its activations differ from the last one's.
  __device__ __forceinline__ bool advance() {
    if (++unit_ < my_units_) {
      source_.weights += static_cast<int64_t>(split_) * kStepBytes;
      source_.column += split_ * kUnitK;
      return true;
    }
    if (--items_left_ == 0) {
      source_.valid = false;
      return false;
    }
    if (++step_ < steps_) {
      item_ += static_cast<int64_t>(k_units_) * kStepBytes;
      start_item();
      return my_units_ > 1;
    }
    ++tile_;
    step_ = 0;
    enter_tile();
    return true;
  }

 private:
  __device__ __forceinline__ void enter_tile() {
    const TokenTile tile = list_.tiles[tile_];
    const uint8_t* matrix = kFc1 ? p_.layer.fc1 : p_.layer.fc2;
    item_ = matrix +
            ((static_cast<int64_t>(tile.expert) * steps_ + step_) * k_units_ + warp_) * kStepBytes;
    source_.row = nullptr;
    if (token_ < tile.count) {
      const int pair = list_.pairs[tile.first + token_];
      if constexpr (kFc1) {
        const int row = p_.layer.weight_on_input ? pair : token_of(p_, pair);
        source_.row = p_.x + static_cast<int64_t>(row) * p_.layer.hidden_size;
      } else {
        source_.row = p_.act + static_cast<int64_t>(pair) * p_.layer.intermediate_size;
      }
    }
    start_item();
  }
  __device__ __forceinline__ void start_item() {
    unit_ = 0;
    source_.weights = item_;
    source_.column = warp_ * kUnitK;
  }

  const MarlinParams& p_;
  const TileList& list_;
  const int token_, split_, warp_, k_units_, steps_, my_units_;
  int items_left_, tile_ = 0, step_ = 0, unit_ = 0;
  const uint8_t* item_ = nullptr;
  StepSource source_;
};

// sum.x, .y: row g of tokens 2t and 2t + 1; .z, .w: row g + 8.
__device__ __forceinline__ void store_act(const MarlinParams& p, const TileList& list,
                                          int tile_index, int m16_tile, float4 sum) {
  const TokenTile tile = list.tiles[tile_index];
  const int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
  const PackedLayerView& layer = p.layer;
  const int64_t expert_row = static_cast<int64_t>(tile.expert) * layer.intermediate_size;
  const float alpha_up = layer.alpha_up[tile.expert];
  const float top[2] = {sum.x, sum.y}, bottom[2] = {sum.z, sum.w};
  if (layer.activation.is_gated()) {
    const int i = m16_tile * 8 + g;
    const float alpha_gate = layer.alpha_gate[tile.expert];
    const float bias_gate = layer.bias_gate ? layer.bias_gate[expert_row + i] : 0.0f;
    const float bias_up = layer.bias_up ? layer.bias_up[expert_row + i] : 0.0f;
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      if (2 * t + q >= tile.count) continue;
      const int pair = list.pairs[tile.first + 2 * t + q];
      const float value = fast_activation(layer.activation, fmaf(top[q], alpha_gate, bias_gate),
                                          fmaf(bottom[q], alpha_up, bias_up));
      p.act[static_cast<int64_t>(pair) * layer.intermediate_size + i] = __float2bfloat16(value);
    }
    return;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = m16_tile * kTileRows + g + 8 * half;
    if (i >= layer.intermediate_size) continue;
    const float bias_up = layer.bias_up ? layer.bias_up[expert_row + i] : 0.0f;
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      if (2 * t + q >= tile.count) continue;
      const int pair = list.pairs[tile.first + 2 * t + q];
      const float up = fmaf(half == 0 ? top[q] : bottom[q], alpha_up, bias_up);
      p.act[static_cast<int64_t>(pair) * layer.intermediate_size + i] =
          __float2bfloat16(fast_activation(layer.activation, 0.0f, up));
    }
  }
}

__device__ __forceinline__ void store_y(const MarlinParams& p, const TileList& list, int tile_index,
                                        int step, const float (&sum)[2][4]) {
  const TokenTile tile = list.tiles[tile_index];
  const int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
  const PackedLayerView& layer = p.layer;
  const float alpha = layer.alpha_down[tile.expert];
  const float* bias = layer.bias_down == nullptr
                          ? nullptr
                          : layer.bias_down + static_cast<int64_t>(tile.expert) * layer.hidden_size;
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    if (2 * t + q >= tile.count) continue;
    const int pair = list.pairs[tile.first + 2 * t + q];
    float* y = p.y + static_cast<int64_t>(pair) * layer.hidden_size;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int h = step * 32 + 8 * r + g;
      if (h >= layer.hidden_size) continue;
      y[h] = fmaf(sum[r / 2][2 * (r % 2) + q], alpha, bias == nullptr ? 0.0f : bias[h]);
    }
  }
}

// Splits a step's K over the warps of a group and brings the partial sums together.
class GroupReduction {
 public:
  __device__ __forceinline__ GroupReduction(ReductionBuffers& buffers, int group, int split,
                                            int warp_in_group)
      : partial_(buffers.partial + group * 4 * split),
        full_(buffers.full[group]),
        empty_(buffers.empty[group]),
        split_(split),
        warp_(warp_in_group) {}

  // Reduces step `n` of the group; `store` gets the m16 tile (0 or 1) and the lane's sums.
  template <typename Store>
  __device__ __forceinline__ void reduce(int n, Store store) {
    const int buffer = n & 1, lane = threadIdx.x & 31;
#pragma unroll 1
    for (int tile = 0; tile < 2; ++tile) {
      if (((2 * n + tile) & (split_ - 1)) != warp_) continue;
      barrier_wait(&full_[buffer], (n >> 1) & 1);
      const float4(*from)[32] = partial_ + (buffer * 2 + tile) * split_;
      float4 sum = from[0][lane];
      for (int s = 1; s < split_; ++s) {
        const float4 other = from[s][lane];
        sum.x += other.x;
        sum.y += other.y;
        sum.z += other.z;
        sum.w += other.w;
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(&empty_[buffer]);
      store(tile, sum);
    }
  }

  __device__ __forceinline__ void write(int n, const float (&acc)[2][4]) {
    const int buffer = n & 1, lane = threadIdx.x & 31;
    barrier_wait(&empty_[buffer], ((n >> 1) & 1) ^ 1);
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      partial_[(buffer * 2 + tile) * split_ + warp_][lane] =
          make_float4(acc[tile][0], acc[tile][1], acc[tile][2], acc[tile][3]);
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(&full_[buffer]);
  }

 private:
  float4 (*partial_)[32];
  uint64_t *full_, *empty_;
  const int split_, warp_;
};

template <bool kFc1>
__global__ __launch_bounds__(kThreads,
                             2) void expert_gemm_kernel(const __grid_constant__ MarlinParams p) {
  extern __shared__ __align__(16) uint8_t shared[];
  auto& buffers = *reinterpret_cast<ReductionBuffers*>(shared);
  int* const routing = reinterpret_cast<int*>(shared + (kFc1 ? sizeof(ReductionBuffers) : 0));
  const int warp = threadIdx.x / 32;
  const int split = kFc1 ? p.fc1_split : 1;
  const int groups = kWarps / split, group = warp / split, warp_in_group = warp & (split - 1);

  // FC1 follows whatever made x and the ids, FC2 follows FC1: by the time FC2 runs its prologue all
  // that FC1 waited for is done, so only `act` has to be waited for.
  if (kFc1) {
    wait_for_previous_kernel();
    launch_dependents();
    if (threadIdx.x < groups * 2) {
      barrier_init(&buffers.full[threadIdx.x / 2][threadIdx.x % 2], split);
      barrier_init(&buffers.empty[threadIdx.x / 2][threadIdx.x % 2], 2);
    }
    __syncthreads();
  }
  const TileList list = p.tiles != nullptr
                            ? TileList{p.tiles, p.sorted_pairs, *p.num_tiles}
                            : route_in_block<kThreads>(p.layer, p.topk_ids, p.num_pairs, routing);

  const int steps = (kFc1 ? p.layer.fc1_tiles : p.layer.fc2_tiles) / 2;
  const int k = kFc1 ? p.layer.hidden_size : p.layer.intermediate_size;
  const int64_t items = static_cast<int64_t>(list.num_tiles) * steps;
  const int64_t all_groups = static_cast<int64_t>(gridDim.x) * groups;
  const int64_t me = static_cast<int64_t>(blockIdx.x) * groups + group;
  const int64_t first = items * me / all_groups, last = items * (me + 1) / all_groups;

  const StepLane at{lane_id(), k - 16};
  UnitCursor<kFc1> cursor(p, list, first, last, split, warp_in_group, at.lane);
  StepFragments<2> fragments = {};
  load_step_weights(fragments, cursor.source(), at);
  if (!kFc1) {
    wait_for_previous_kernel();
    launch_dependents();
  }
  if (first == last) return;
  load_step_activations(fragments, cursor.source(), at);

  const int my_units = cursor.my_units();
  int tile = static_cast<int>(first / steps);
  int step = static_cast<int>(first - static_cast<int64_t>(tile) * steps);
  if constexpr (kFc1) {
    GroupReduction reduction(buffers, group, split, warp_in_group);
    int previous_tile = 0, previous_step = 0;
    const int count = static_cast<int>(last - first);
    for (int n = 0; n <= count; ++n) {
      float acc[2][4] = {};
      if (n < count) {
        for (int unit = 0; unit < my_units; ++unit) {
          const bool refill = cursor.advance();
          multiply_step(fragments, acc, cursor.source(), refill, at);
        }
      }
      if (n > 0) {
        reduction.reduce(n - 1, [&](int half, float4 sum) {
          store_act(p, list, previous_tile, previous_step * 2 + half, sum);
        });
      }
      if (n < count) reduction.write(n, acc);
      previous_tile = tile;
      previous_step = step;
      if (++step == steps) {
        step = 0;
        ++tile;
      }
    }
  } else {
    for (int64_t item = first; item < last; ++item) {
      float sum[2][4] = {};
      for (int unit = 0; unit < my_units; ++unit) {
        float acc[2][4] = {};
        const bool refill = cursor.advance();
        multiply_step(fragments, acc, cursor.source(), refill, at);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum[i / 4][i % 4] += acc[i / 4][i % 4];
      }
      store_y(p, list, tile, step, sum);
      if (++step == steps) {
        step = 0;
        ++tile;
      }
    }
  }
}

template <bool kFc1>
size_t shared_bytes(const PackedLayerView& layer, int64_t num_pairs, bool routes) {
  return (kFc1 ? sizeof(ReductionBuffers) : 0) +
         (routes ? static_cast<size_t>(
                       block_routing_bytes(num_pairs, layer.num_local_experts, kThreads))
                 : 0);
}

template <bool kFc1>
int blocks_on_device() {
  int device = 0, sms = 0, blocks = 0;
  MOE4_CUDA_CHECK(cudaGetDevice(&device));
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  MOE4_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &blocks, expert_gemm_kernel<kFc1>, kThreads, sizeof(ReductionBuffers)));
  return sms * blocks;
}

template <bool kFc1>
void launch_expert_gemm(const MarlinParams& params, int blocks, cudaStream_t stream,
                        bool dependent) {
  launch(
      expert_gemm_kernel<kFc1>,
      {.grid = dim3(static_cast<unsigned>(blocks)),
       .block = dim3(kThreads),
       .shared_bytes = shared_bytes<kFc1>(params.layer, params.num_pairs, params.tiles == nullptr),
       .stream = stream,
       .dependent = dependent},
      params);
}

}  // namespace

void allow_expert_shared_memory() {
  for (const auto kernel : {expert_gemm_kernel<true>, expert_gemm_kernel<false>}) {
    MOE4_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 80 * 1024));
  }
}

int fc1_blocks() { return blocks_on_device<true>(); }
int fc2_expert_blocks() { return blocks_on_device<false>(); }

void launch_fc1(const MarlinParams& params, int blocks, cudaStream_t stream, bool dependent) {
  launch_expert_gemm<true>(params, blocks, stream, dependent);
}

void launch_fc2_experts(const MarlinParams& params, int blocks, cudaStream_t stream,
                        bool dependent) {
  launch_expert_gemm<false>(params, blocks, stream, dependent);
}

}  // namespace moe4::cuda
