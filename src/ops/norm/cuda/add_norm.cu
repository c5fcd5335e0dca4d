// AddNorm on NVIDIA GPUs: a block a row, which stays in registers between the sum and the norm.
//
// A thread has every blockDim.x-th vector of eight values. How many threads and vectors that are
// depends on the width alone, so a row's bits do not depend on how many rows there are. The weights
// are on their way before the kernel waits for what makes the row.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"
#include "ops/norm/cuda/cuda_add_norm.h"
#include "ops/norm/cuda/norm_row.cuh"

namespace moe4 {
namespace {

using namespace cuda;

template <typename Delta, typename Y>
struct Params {
  RowsOf<float> residual;  // data null: the rows of delta are all there is, and stay as they are
  RowsOf<Delta> delta;     // data null: none
  RowsOf<Y> y;
  const int32_t* rows;  // null: all
  const float* weight;  // as many as whole vectors need
  int width;
  float eps, scale;
};

// The sum over the block in a fixed order, for all threads.
__device__ float block_sum(float x) {
  __shared__ float sums[kMaxNormWarps];
  x = add_over_warp(x);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  float all = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) all += sums[w];
  return all;
}

// residual[c ...] = v = (residual + delta) * scale; the sum of v's squares.
template <bool kWhole, typename Delta, typename Y>
__device__ __forceinline__ float add_delta(const Params<Delta, Y>& p, float* residual,
                                           const Delta* delta, int c, float (&v)[kVector]) {
  const int count = p.width - c;
  float d[kVector] = {};
  if (residual != nullptr) {
    load_vector<kWhole>(residual + c, count, v);
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] = 0.0f;
  }
  if (delta != nullptr) load_vector<kWhole>(delta + c, count, d);
  const float squares = add_vector(v, d, p.scale);
  if (residual != nullptr && (delta != nullptr || p.scale != 1.0f)) {
    store_vector<kWhole>(residual + c, count, v);
  }
  return squares;
}

// kVectors of a thread stay in registers, what goes past them is read again. kWhole: rows are whole
// aligned vectors.
template <typename Delta, typename Y, int kVectors, bool kWhole>
__global__ void __launch_bounds__(kMaxNormThreads) add_norm_kernel(const Params<Delta, Y> p) {
  const int first = static_cast<int>(threadIdx.x) * kVector;
  const int step = static_cast<int>(blockDim.x) * kVector;
  float weight[kVectors][kVector], kept[kVectors][kVector];
#pragma unroll
  for (int n = 0; n < kVectors; ++n) {
    if (first + n * step < p.width) load_vector(p.weight + first + n * step, weight[n]);
  }
  launch_dependents();
  wait_for_previous_kernel();
  const int64_t t = p.rows != nullptr ? p.rows[blockIdx.x] : blockIdx.x;
  float* residual = p.residual.data != nullptr ? p.residual.row(t) : nullptr;
  const Delta* delta = p.delta.data != nullptr ? p.delta.row(t) : nullptr;
  float squares = 0;
#pragma unroll
  for (int n = 0; n < kVectors; ++n) {
    const int c = first + n * step;
    if (c < p.width) squares += add_delta<kWhole>(p, residual, delta, c, kept[n]);
  }
  for (int c = first + kVectors * step; c < p.width; c += step) {
    float v[kVector];
    squares += add_delta<kWhole>(p, residual, delta, c, v);
  }
  const float factor = norm_factor(block_sum(squares), p.width, p.eps);
  Y* y = p.y.row(blockIdx.x);
#pragma unroll
  for (int n = 0; n < kVectors; ++n) {
    const int c = first + n * step;
    if (c >= p.width) break;
    scale_vector(kept[n], factor, weight[n]);
    store_vector<kWhole>(y + c, p.width - c, kept[n]);
  }
  for (int c = first + kVectors * step; c < p.width; c += step) {
    float v[kVector], w[kVector];
    if (residual != nullptr) {
      load_vector<kWhole>(residual + c, p.width - c, v);
    } else {
      add_delta<kWhole>(p, residual, delta, c, v);
    }
    load_vector(p.weight + c, w);
    scale_vector(v, factor, w);
    store_vector<kWhole>(y + c, p.width - c, v);
  }
}

template <typename Delta, typename Y, int kVectors, bool kWhole>
void start(const AddNorm::Problem& problem, const AddNorm::Args& args, const float* weight,
           const Stream& stream, bool dependent) {
  launch(add_norm_kernel<Delta, Y, kVectors, kWhole>,
         {.grid = dim3(static_cast<unsigned>(args.y.rows)),
          .block = dim3(static_cast<unsigned>(norm_threads(problem.width))),
          .stream = static_cast<cudaStream_t>(stream.handle),
          .dependent = dependent},
         Params<Delta, Y>{.residual = RowsOf<float>(args.residual),
                          .delta = RowsOf<Delta>(args.delta),
                          .y = RowsOf<Y>(args.y),
                          .rows = args.rows,
                          .weight = weight,
                          .width = static_cast<int>(problem.width),
                          .eps = problem.norm.eps,
                          .scale = args.scale});
}

}  // namespace

CudaAddNorm::CudaAddNorm(const AddNorm::Problem& problem, const AddNorm::Weights& weights,
                         const OpOptions& options)
    : Prepared(problem), dependent_(options.device.sm >= 90) {
  const DeviceGuard guard(options.device.index);
  std::vector<float> weight = norm_weights(problem.norm, weights.weight, problem.width);
  weight.resize(static_cast<size_t>(round_up(problem.width, kVector)));
  weight_ = to_device<float>(weight);
}

void CudaAddNorm::run(const AddNorm::Args& call, std::span<std::byte>, const Stream& stream) const {
  AddNorm::Args args = call;
  if (args.residual.format != RowFormat::kF32) {
    // The norm of what a part made: nothing is added and nothing written back.
    MOE4_CHECK(args.delta.empty() && args.scale == 1.0f);
    std::swap(args.residual, args.delta);
  }
  if (args.y.rows == 0) return;
  with_element(args.delta.format, [&](auto delta) {
    with_element(args.y.format, [&](auto y) {
      using Delta = decltype(delta);
      using Y = decltype(y);
      const int64_t width = problem().width;
      const bool whole = are_vectors({args.residual, args.delta, args.y});
      const auto chosen = !whole                                   ? start<Delta, Y, 1, false>
                          : width <= kMaxNormThreads * kVector     ? start<Delta, Y, 1, true>
                          : width <= 2 * kMaxNormThreads * kVector ? start<Delta, Y, 2, true>
                                                                   : start<Delta, Y, 4, true>;
      chosen(problem(), args, weight_.get(), stream, dependent_);
    });
  });
}

template <>
std::unique_ptr<Prepared<AddNorm>> prepare_on_cuda<AddNorm>(const AddNorm::Problem& problem,
                                                            const AddNorm::Weights& weights,
                                                            const OpOptions& options) {
  return std::make_unique<CudaAddNorm>(problem, weights, options);
}

}  // namespace moe4
