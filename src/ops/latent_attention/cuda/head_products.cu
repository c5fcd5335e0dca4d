// Products of every head's vectors with a small matrix of that head: a warp has 16 or 32 outputs of
// a head for 8 or 32 tokens, which are the n8 operand. Matrices go from memory to registers, packed
// as mma.m16n8k16 wants them, some tiles ahead, the first of them before the kernel in front has
// ended; a block's warps share the vectors of their head, split into pairs of BF16 once.
#include <cuda_bf16.h>

#include <bit>
#include <vector>

#include "base/checked_math.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "numerics/bf16.h"
#include "ops/latent_attention/cuda/head_products.h"

namespace moe4::cuda {
namespace {

// How a launch divides a head's outputs and tokens among warps.
struct Few {  // at most 8 tokens: small blocks, so that the warps of a few heads reach every SM
  static constexpr int kWarps = 2, kOutputTiles = 1, kTokenTiles = 1;
  static constexpr int kChunkTiles = 32;  // of inputs that are shared at a time: 16 KiB
  // 8 KiB of a warp on their way: with 2.4 to 5 warps an SM that is 2.5 to 5 MB of an H200, about
  // what its bandwidth and latency ask for. With low matrices it is eight tiles of both.
  static constexpr int ahead(bool has_low) { return has_low ? 8 : 16; }
};
struct Many {
  static constexpr int kWarps = 4, kOutputTiles = 2, kTokenTiles = 4;
  static constexpr int kChunkTiles = 8;  // 16 KiB again
  static constexpr int ahead(bool) { return 2; }
};

struct Params {
  const uint4 *high, *low;
  int outputs, inputs, output_tiles, input_tiles, first_head;
  const std::byte* x;
  int64_t x_stride, x_head_stride;
  std::byte* y;
  int64_t y_stride, y_head_stride;
  bool x_is_bf16, y_is_bf16;
  int num_tokens, groups;  // of a warp's outputs
  int rope_dim;
  const float* angles;
  int64_t angle_stride;
  const int32_t* positions;
  QueryTemperature temperature;
};

__device__ __forceinline__ float2 pair_at(const Params& p, int64_t i) {
  if (p.x_is_bf16) {
    return __bfloat1622float2(
        *reinterpret_cast<const __nv_bfloat162*>(reinterpret_cast<const __nv_bfloat16*>(p.x) + i));
  }
  return *reinterpret_cast<const float2*>(reinterpret_cast<const float*>(p.x) + i);
}
__device__ __forceinline__ void set(const Params& p, int64_t i, float y) {
  if (p.y_is_bf16) {
    reinterpret_cast<__nv_bfloat16*>(p.y)[i] = __float2bfloat16_rn(y);
  } else {
    reinterpret_cast<float*>(p.y)[i] = y;
  }
}

__device__ __forceinline__ float temperature_at(const Params& p, int token) {
  if (p.temperature.beta == 0) return 1.0f;
  const int64_t steps = (p.positions[token] + p.temperature.offset) / p.temperature.span;
  return static_cast<float>(1.0 + p.temperature.beta * log1p(static_cast<double>(steps)));
}

__device__ __forceinline__ uint32_t bits_of(__nv_bfloat162 x) {
  return *reinterpret_cast<const uint32_t*>(&x);
}

// Two floats as two pairs of BF16 whose sum they are, but for what is below 2^-17 of them.
__device__ __forceinline__ void split(float2 x, uint32_t& high, uint32_t& low) {
  const __nv_bfloat162 rounded = __floats2bfloat162_rn(x.x, x.y);
  const float2 back = __bfloat1622float2(rounded);
  high = bits_of(rounded);
  low = bits_of(__floats2bfloat162_rn(x.x - back.x, x.y - back.y));
}

__device__ __forceinline__ void multiply(float (&d)[4], const uint4& a, const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b[0]), "r"(b[1]));
}

// The part of queries that is turned, not multiplied.
template <int Tokens, int Threads>
__device__ void turn(const Params& p, int first_token, int head) {
  const int half = p.rope_dim / 2;
  for (int i = static_cast<int>(threadIdx.x); i < Tokens * half; i += Threads) {
    const int token = first_token + i / half, j = i % half;
    if (token >= p.num_tokens) return;
    const float2 x = pair_at(p, token * p.x_stride + head * p.x_head_stride + p.inputs + 2 * j);
    const float* angles = p.angles + token * p.angle_stride;
    const float cosine = angles[j], sine = angles[half + j], factor = temperature_at(p, token);
    const int64_t to = token * p.y_stride + head * p.y_head_stride + p.outputs + 2 * j;
    set(p, to, (x.x * cosine - x.y * sine) * factor);
    set(p, to + 1, (x.y * cosine + x.x * sine) * factor);
  }
}

/// A head's vectors of some tokens and inputs as pairs of BF16. Rows are 4 banks apart, so that the
/// eight tokens and four pairs of a fragment lie in 32.
template <typename Shape>
struct SharedVectors {
  static constexpr int kTokens = 8 * Shape::kTokenTiles, kPairs = 8 * Shape::kChunkTiles;
  uint32_t high[kTokens][kPairs + 4], low[kTokens][kPairs + 4];
};

/// Inputs [first_input, first_input + 16 * kChunkTiles) of the head's vectors, split, to shared
/// memory; zeros where there are none. All threads of the block, between two barriers.
template <typename Shape>
__device__ __forceinline__ void share_vectors(const Params& p, int first_token, int head,
                                              int first_input, SharedVectors<Shape>& shared) {
  constexpr int kPairs = SharedVectors<Shape>::kPairs;
  const int tokens = min(SharedVectors<Shape>::kTokens, p.num_tokens - first_token);
  const int pairs = min(kPairs, 8 * p.input_tiles - first_input / 2);
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < tokens * kPairs; i += 32 * Shape::kWarps) {
    const int token = i / kPairs, pair = i % kPairs, k = first_input + 2 * pair;
    if (pair >= pairs) continue;
    const int64_t row = (first_token + token) * p.x_stride + head * p.x_head_stride;
    split(k < p.inputs ? pair_at(p, row + k) : float2{}, shared.high[token][pair],
          shared.low[token][pair]);
  }
}

template <typename Shape, bool kHasLow>
__global__ void __launch_bounds__(32 * Shape::kWarps)
    head_product_kernel(const __grid_constant__ Params p) {
  constexpr int kOutputTiles = Shape::kOutputTiles, kTokenTiles = Shape::kTokenTiles;
  constexpr int kTokens = 8 * kTokenTiles, kAhead = Shape::ahead(kHasLow);
  static_assert(Shape::kChunkTiles % kAhead == 0 && kAhead % 2 == 0);
  __shared__ SharedVectors<Shape> shared;
  const int lane = lane_id(), g = lane / 4, t = lane % 4;
  const int first_token = static_cast<int>(blockIdx.x) * kTokens;
  const int head = static_cast<int>(blockIdx.z);
  const int block = static_cast<int>(blockIdx.y);
  if (block * Shape::kWarps >= p.groups) {
    wait_for_previous_kernel();
    launch_dependents();
    return turn<kTokens, 32 * Shape::kWarps>(p, first_token, head);
  }
  const int first_tile =
      (block * Shape::kWarps + static_cast<int>(threadIdx.x / 32)) * kOutputTiles;

  // Tiles of weights that are on their way; zeros beyond the matrix.
  uint4 high[kAhead][kOutputTiles] = {}, low[kHasLow ? kAhead : 1][kOutputTiles] = {};
  const int64_t matrix = (static_cast<int64_t>(p.first_head + head) * p.output_tiles + first_tile) *
                             p.input_tiles * 32 +
                         lane;
  const auto load = [&](int step, int slot) {
#pragma unroll
    for (int i = 0; i < kOutputTiles; ++i) {
      const bool there = step < p.input_tiles && first_tile + i < p.output_tiles;
      const int64_t at = matrix + (static_cast<int64_t>(i) * p.input_tiles + step) * 32;
      load_in_order16_if(there, p.high + at, high[slot][i]);
      if constexpr (kHasLow) load_in_order16_if(there, p.low + at, low[slot][i]);
    }
  };
#pragma unroll
  for (int slot = 0; slot < kAhead; ++slot) load(slot, slot);

  wait_for_previous_kernel();
  launch_dependents();

  // Of even and odd steps: shorter chains of products.
  float sums[2][kOutputTiles][kTokenTiles][4] = {};
  for (int chunk = 0; chunk < p.input_tiles; chunk += Shape::kChunkTiles) {
    if (chunk > 0) __syncthreads();
    share_vectors(p, first_token, head, 16 * chunk, shared);
    __syncthreads();
    const int end = min(chunk + Shape::kChunkTiles, p.input_tiles);
    for (int first_step = chunk; first_step < end; first_step += kAhead) {
#pragma unroll
      for (int slot = 0; slot < kAhead; ++slot) {
        const int step = first_step + slot;
        if (step >= end) break;
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j) {
          const int pair = 8 * (step - chunk) + t;
          const uint32_t* x = &shared.high[8 * j + g][pair];
          const uint32_t* rest = &shared.low[8 * j + g][pair];
          const uint32_t b_high[2] = {x[0], x[4]}, b_low[2] = {rest[0], rest[4]};
#pragma unroll
          for (int i = 0; i < kOutputTiles; ++i) {
            multiply(sums[slot % 2][i][j], high[slot][i], b_high);
            if (!p.x_is_bf16) multiply(sums[slot % 2][i][j], high[slot][i], b_low);
            if constexpr (kHasLow) multiply(sums[slot % 2][i][j], low[slot][i], b_high);
          }
        }
        load(step + kAhead, slot);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kTokenTiles; ++j) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int token = first_token + 8 * j + 2 * t + side;
      if (token >= p.num_tokens) continue;
      const float factor = temperature_at(p, token);
      const int64_t to = token * p.y_stride + head * p.y_head_stride;
#pragma unroll
      for (int i = 0; i < kOutputTiles; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int output = (first_tile + i) * 16 + g + 8 * half;
          if (output < p.outputs) {
            const int place = 2 * half + side;
            set(p, to + output, (sums[0][i][j][place] + sums[1][i][j][place]) * factor);
          }
        }
      }
    }
  }
}

template <typename Shape>
void launch_product(Params& params, int num_heads, cudaStream_t stream, bool dependent) {
  params.groups = static_cast<int>(ceil_div(params.output_tiles, Shape::kOutputTiles));
  const int64_t blocks = ceil_div(params.groups, Shape::kWarps) + (params.rope_dim > 0 ? 1 : 0);
  launch(
      params.low != nullptr ? head_product_kernel<Shape, true> : head_product_kernel<Shape, false>,
      {.grid = dim3(static_cast<unsigned>(ceil_div(params.num_tokens, 8 * Shape::kTokenTiles)),
                    static_cast<unsigned>(blocks), static_cast<unsigned>(num_heads)),
       .block = dim3(32 * Shape::kWarps),
       .stream = stream,
       .dependent = dependent},
      params);
}

}  // namespace

HeadMatrices pack_head_matrices(int num_heads, int outputs, int inputs, bool is_bf16,
                                ThreadPool* threads,
                                const std::function<float(int, int, int)>& at) {
  HeadMatrices matrices{.num_heads = num_heads, .outputs = outputs, .inputs = inputs};
  const int output_tiles = matrices.output_tiles(), input_tiles = matrices.input_tiles();
  const int64_t of_head = int64_t{output_tiles} * input_tiles * 32 * 8;
  std::vector<Bf16> high(num_heads * of_head), low(is_bf16 ? 0 : high.size());
  const auto pack = [&](int64_t begin, int64_t end, int) {
    for (int64_t head = begin; head < end; ++head) {
      int64_t to = head * of_head;
      for (int tile = 0; tile < output_tiles; ++tile) {
        for (int step = 0; step < input_tiles; ++step) {
          for (int i = 0; i < 32 * 8; ++i, ++to) {
            const int lane = i / 8, reg = i % 8 / 2;
            const int output = 16 * tile + lane / 4 + reg % 2 * 8;
            const int input = 16 * step + lane % 4 * 2 + reg / 2 * 8 + i % 2;
            if (output >= outputs || input >= inputs) continue;
            const float x = at(static_cast<int>(head), output, input);
            high[to] = to_bf16(x);
            if (!is_bf16) low[to] = to_bf16(x - to_float(high[to]));
          }
        }
      }
    }
  };
  if (threads != nullptr) {
    threads->parallel_for(num_heads, 1, pack);
  } else {
    pack(0, num_heads, 0);
  }
  const auto upload = [](const std::vector<Bf16>& values) {
    const auto count = static_cast<int64_t>(values.size() / 8);
    DeviceArray<uint4> array = allocate_device<uint4>(count);
    if (count > 0) {
      MOE4_CUDA_CHECK(
          cudaMemcpy(array.get(), values.data(), count * sizeof(uint4), cudaMemcpyHostToDevice));
    }
    return array;
  };
  matrices.high = upload(high);
  matrices.low = upload(low);
  return matrices;
}

void multiply_heads(const HeadMatrices& matrices, const HeadProduct& product, cudaStream_t stream,
                    bool dependent) {
  Params params{.high = matrices.high.get(),
                .low = matrices.low.get(),
                .outputs = matrices.outputs,
                .inputs = matrices.inputs,
                .output_tiles = matrices.output_tiles(),
                .input_tiles = matrices.input_tiles(),
                .first_head = product.first_head,
                .x = product.x.data,
                .x_stride = product.x.stride,
                .x_head_stride = product.x_head_stride,
                .y = product.y.data,
                .y_stride = product.y.stride,
                .y_head_stride = product.y_head_stride,
                .x_is_bf16 = product.x.format == RowFormat::kBf16,
                .y_is_bf16 = product.y.format == RowFormat::kBf16,
                .num_tokens = static_cast<int>(product.x.rows),
                .groups = 0,
                .rope_dim = product.rope_dim,
                .angles = reinterpret_cast<const float*>(product.angles.data),
                .angle_stride = product.angles.stride,
                .positions = product.positions,
                .temperature = product.temperature};
  if (params.num_tokens <= 8) {
    launch_product<Few>(params, product.num_heads, stream, dependent);
  } else {
    launch_product<Many>(params, product.num_heads, stream, dependent);
  }
}

}  // namespace moe4::cuda
