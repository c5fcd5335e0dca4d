// MixStreams on NVIDIA GPUs, two launches: products of every token with fn, chunk by chunk along
// all its streams; then the sums of the chunks, what is made of them, and the mixture.
//
// fn is what few tokens read (24 rows of 16384 float32 are 1.6 MB): a warp has 8 of its rows in a
// chunk of 256 columns in registers, asked for before the kernel in front has ended, and passes
// over some tokens with them. How many those are changes nothing: a sum is of one token, in an
// order that its chunk and lanes give.
#include <algorithm>

#include "base/checked_math.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"
#include "ops/cuda/recurrent.cuh"
#include "ops/streams/cuda/number_of_streams.h"
#include "ops/streams/streams.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr int kLaneColumns = 8, kChunk = 32 * kLaneColumns;
constexpr int kWarpMixes = 8;
constexpr int kMostMixes = StreamShape::kMost * (2 + StreamShape::kMost);
constexpr int64_t kMostTokens = 16;        // of a block of products
constexpr int64_t kBlocksOfProcessor = 4;  // of products, before a block gets more tokens
constexpr int kThreads = 128, kColumns = 4;
constexpr int kSummands = 8;  // lanes that share a sum of chunks

struct Params {
  RowsOf<float> streams;
  const int32_t* rows;  // null: all
  int num_rows;
  const float *fn, *base, *scale;
  /// Of every row num_mixes products and the sum of squares, each of `chunks` parts.
  float* parts;  // [num_rows, num_mixes + 1, chunks]
  RowsOf<float> x, coefficients;
  int width, all, num_mixes, chunks, iterations;
  float eps, norm_eps;
  bool is_head;

  __device__ const float* row(int i) const { return streams.row(rows != nullptr ? rows[i] : i); }
};

// Sum i of all lanes' v[i], in the lanes 4 i to 4 i + 3.
__device__ __forceinline__ float sums_over_lanes(float (&v)[kWarpMixes]) {
  static_assert(kWarpMixes == 8);
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int n = 4; n > 0; n /= 2) {
    const bool is_upper = (lane & 4 * n) != 0;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const float other = is_upper ? v[i] : v[i + n], own = is_upper ? v[i + n] : v[i];
      v[i] = own + __shfl_xor_sync(0xffffffff, other, 4 * n);
    }
  }
  v[0] += __shfl_xor_sync(0xffffffff, v[0], 2);
  v[0] += __shfl_xor_sync(0xffffffff, v[0], 1);
  return v[0];
}

__global__ void __launch_bounds__(32 * (kMostMixes / kWarpMixes))
    products_kernel(const __grid_constant__ Params p, int tokens) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int chunk = static_cast<int>(blockIdx.x), first_mix = warp * kWarpMixes;
  const int column = chunk * kChunk + lane * kLaneColumns;
  const bool is_there = column < p.all;  // which is a multiple of kLaneColumns
  float4 weights[kWarpMixes][2] = {};
#pragma unroll
  for (int i = 0; i < kWarpMixes; ++i) {
    if (!is_there || first_mix + i >= p.num_mixes) continue;
    const float* from = p.fn + static_cast<int64_t>(first_mix + i) * p.all + column;
    weights[i][0] = load4(from);
    weights[i][1] = load4(from + 4);
  }
  wait_for_previous_kernel();
  launch_dependents();
  const int first = static_cast<int>(blockIdx.y) * tokens, end = min(first + tokens, p.num_rows);
  float4 next[2] = {};
  const auto load = [&](int token) {
    if (!is_there || token >= end) return;
    const float* from = p.row(token) + column;
    next[0] = load4(from);
    next[1] = load4(from + 4);
  };
  load(first);
  for (int token = first; token < end; ++token) {
    const float4 x[2] = {next[0], next[1]};
    load(token + 1);
    float* parts = p.parts + (static_cast<int64_t>(token) * (p.num_mixes + 1)) * p.chunks + chunk;
    const auto product = [](float sum, float4 a, float4 b) {
      return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
    };
    float sums[kWarpMixes];
#pragma unroll
    for (int i = 0; i < kWarpMixes; ++i) {
      sums[i] = product(product(0.0f, x[0], weights[i][0]), x[1], weights[i][1]);
    }
    const float sum = sums_over_lanes(sums);
    const int mix = first_mix + lane / 4;
    if (lane % 4 == 0 && mix < p.num_mixes) parts[static_cast<int64_t>(mix) * p.chunks] = sum;
    if (warp > 0) continue;
    float squares = product(product(0.0f, x[0], x[0]), x[1], x[1]);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      squares += __shfl_xor_sync(0xffffffff, squares, offset);
    }
    if (lane == 0) parts[static_cast<int64_t>(p.num_mixes) * p.chunks] = squares;
  }
}

// From logits to a matrix whose rows and columns add up to about 1.
template <int kStreams>
__device__ __forceinline__ void balance(const float* logits, int iterations, float eps,
                                        float* matrix) {
  float a[kStreams][kStreams];
#pragma unroll
  for (int i = 0; i < kStreams; ++i) {
    float top = logits[i * kStreams], sum = 0;
#pragma unroll
    for (int j = 1; j < kStreams; ++j) top = fmaxf(top, logits[i * kStreams + j]);
#pragma unroll
    for (int j = 0; j < kStreams; ++j) sum += a[i][j] = expf(logits[i * kStreams + j] - top);
#pragma unroll
    for (int j = 0; j < kStreams; ++j) a[i][j] = a[i][j] / sum + eps;
  }
  const auto divide_columns = [&] {
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      float sum = eps;
#pragma unroll
      for (int i = 0; i < kStreams; ++i) sum += a[i][j];
      const float factor = __frcp_rn(sum);
#pragma unroll
      for (int i = 0; i < kStreams; ++i) a[i][j] *= factor;
    }
  };
  divide_columns();
#pragma unroll 1
  for (int k = 1; k < iterations; ++k) {
#pragma unroll
    for (int i = 0; i < kStreams; ++i) {
      float sum = eps;
#pragma unroll
      for (int j = 0; j < kStreams; ++j) sum += a[i][j];
      const float factor = __frcp_rn(sum);
#pragma unroll
      for (int j = 0; j < kStreams; ++j) a[i][j] *= factor;
    }
    divide_columns();
  }
#pragma unroll
  for (int i = 0; i < kStreams; ++i) {
#pragma unroll
    for (int j = 0; j < kStreams; ++j) matrix[i * kStreams + j] = a[i][j];
  }
}

// A block has some columns of a row's mixture; the first block of a row its coefficients, too.
template <int kStreams>
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ Params p) {
  __shared__ float mixes[kMostMixes + 1];
  wait_for_previous_kernel();
  launch_dependents();
  const int row = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const bool has_coefficients = blockIdx.y == 0 && !p.is_head;
  const int wanted = has_coefficients ? p.num_mixes : kStreams;
  const int d = (static_cast<int>(blockIdx.y) * kThreads + thread) * kColumns;
  const float* from = p.row(row) + d;
  float4 stream[kStreams] = {};
#pragma unroll
  for (int i = 0; i < kStreams; ++i) {
    if (d < p.width) stream[i] = load4(from + i * p.width);
  }
  // Of `wanted` mixes and, last, of squares.
  const float* parts = p.parts + static_cast<int64_t>(row) * (p.num_mixes + 1) * p.chunks;
  for (int first = 0; first <= wanted; first += kThreads / kSummands) {
    const int i = first + thread / kSummands;
    float sum = 0;
    if (i <= wanted) {
      const float* own = parts + static_cast<int64_t>(i < wanted ? i : p.num_mixes) * p.chunks;
#pragma unroll 8
      for (int c = thread % kSummands; c < p.chunks; c += kSummands) sum += own[c];
    }
#pragma unroll
    for (int offset = kSummands / 2; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(0xffffffff, sum, offset);
    }
    if (i <= wanted && thread % kSummands == 0) mixes[i] = sum;
  }
  __syncthreads();
  const float factor = rsqrtf(mixes[wanted] / static_cast<float>(p.all) + p.norm_eps);
  __syncthreads();
  if (thread < wanted) {
    mixes[thread] = mixes[thread] * factor * p.scale[min(thread / kStreams, 2)] + p.base[thread];
  }
  __syncthreads();
  if (d < p.width) {
    float4 sum{};
#pragma unroll
    for (int i = 0; i < kStreams; ++i) {
      const float weight = sigmoid(mixes[i]) + p.eps;
      sum = {fmaf(weight, stream[i].x, sum.x), fmaf(weight, stream[i].y, sum.y),
             fmaf(weight, stream[i].z, sum.z), fmaf(weight, stream[i].w, sum.w)};
    }
    store4(p.x.row(row) + d, sum);
  }
  if (!has_coefficients) return;
  float* coefficients = p.coefficients.row(row);
  if (thread < kStreams) coefficients[thread] = 2.0f * sigmoid(mixes[kStreams + thread]);
  if (thread == kThreads - 1) {
    balance<kStreams>(mixes + 2 * kStreams, p.iterations, p.eps, coefficients + kStreams);
  }
}

class CudaMixStreams final : public Prepared<MixStreams> {
 public:
  CudaMixStreams(const MixStreams::Problem& problem, const MixStreams::Weights& weights,
                 const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {
    const DeviceGuard guard(options.device.index);
    const int64_t mixes = problem.num_mixes();
    fn_ = to_device<float>(float_vector(weights.fn, mixes * problem.shape.all()));
    base_ = to_device<float>(float_vector(weights.base, mixes));
    scale_ = to_device<float>(float_vector(weights.scale, problem.is_head ? 1 : 3));
    MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&num_processors_, cudaDevAttrMultiProcessorCount,
                                           options.device.index));
  }

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return problem().num_mixes() * (problem().shape.all() + 1) * int64_t{sizeof(float)};
  }
  size_t workspace_size(const MixStreams::Args& bound) const override {
    Arena arena = Arena::measuring();
    take_parts(arena, bound.x.rows);
    return arena.peak();
  }

  void run(const MixStreams::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    const MixStreams::Problem& p = problem();
    const int64_t rows = args.x.rows;
    if (rows == 0) return;
    MOE4_CHECK(args.streams.format == RowFormat::kF32 && args.x.format == RowFormat::kF32);
    MOE4_CHECK(p.is_head || args.coefficients.format == RowFormat::kF32);
    Arena arena(workspace);
    const Params params{.streams = RowsOf<float>(args.streams),
                        .rows = args.rows,
                        .num_rows = static_cast<int>(rows),
                        .fn = fn_.get(),
                        .base = base_.get(),
                        .scale = scale_.get(),
                        .parts = take_parts(arena, rows),
                        .x = RowsOf<float>(args.x),
                        .coefficients = RowsOf<float>(args.coefficients),
                        .width = static_cast<int>(p.shape.width),
                        .all = static_cast<int>(p.shape.all()),
                        .num_mixes = static_cast<int>(p.num_mixes()),
                        .chunks = static_cast<int>(chunks()),
                        .iterations = static_cast<int>(p.iterations),
                        .eps = p.eps,
                        .norm_eps = p.norm_eps,
                        .is_head = p.is_head};
    const auto handle = static_cast<cudaStream_t>(stream.handle);
    const int64_t tokens = std::clamp<int64_t>(
        rows * chunks() / (kBlocksOfProcessor * num_processors_), 1, kMostTokens);
    launch(products_kernel,
           {.grid = dim3(static_cast<unsigned>(chunks()),
                         static_cast<unsigned>(ceil_div(rows, tokens))),
            .block = dim3(static_cast<unsigned>(32 * ceil_div(p.num_mixes(), kWarpMixes))),
            .stream = handle,
            .dependent = dependent_},
           params, static_cast<int>(tokens));
    with_number_of_streams(p.shape.num_streams, [&](auto streams) {
      const int64_t pieces = ceil_div(p.shape.width, int64_t{kThreads * kColumns});
      launch(finish_kernel<decltype(streams)::value>,
             {.grid = dim3(static_cast<unsigned>(rows), static_cast<unsigned>(pieces)),
              .block = dim3(kThreads),
              .stream = handle,
              .dependent = dependent_},
             params);
    });
  }

 private:
  int64_t chunks() const { return ceil_div(problem().shape.all(), int64_t{kChunk}); }
  float* take_parts(Arena& arena, int64_t rows) const {
    return arena.take<float>(rows * (problem().num_mixes() + 1) * chunks());
  }

  DeviceArray<float> fn_, base_, scale_;
  int num_processors_ = 0;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<MixStreams>> prepare_on_cuda<MixStreams>(
    const MixStreams::Problem& problem, const MixStreams::Weights& weights,
    const OpOptions& options) {
  return std::make_unique<CudaMixStreams>(problem, weights, options);
}

}  // namespace moe4
