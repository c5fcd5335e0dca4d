// AddNorm on NVIDIA GPUs: a block a row, which stays in registers between the sum and the norm.
#include "device/cuda/device_buffer.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"
#include "ops/cuda/row_values.cuh"
#include "ops/norm/add_norm.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Values of a row that a thread keeps: rows up to 16384; longer ones are read again.
constexpr int kKept = 64;

template <typename Delta, typename Residual, typename Y>
struct Params {
  RowsOf<Residual> residual;
  RowsOf<Delta> delta;  // data null: none
  RowsOf<Y> y;
  const int32_t* rows;  // null: all
  const float* weight;
  int width;
  float eps, scale;
};

// The sum over the block in a fixed order, for all threads.
__device__ float block_sum(float x) {
  __shared__ float sums[kWarps];
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffff, x, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  float all = 0;
  for (int w = 0; w < kWarps; ++w) all += sums[w];
  return all;
}

template <typename Delta, typename Residual, typename Y>
__global__ void __launch_bounds__(kThreads) add_norm_kernel(const Params<Delta, Residual, Y> p) {
  wait_for_previous_kernel();
  launch_dependents();
  const int64_t t = p.rows != nullptr ? p.rows[blockIdx.x] : blockIdx.x;
  Residual* residual = p.residual.row(t);
  const Delta* delta = p.delta.data != nullptr ? p.delta.row(t) : nullptr;
  float kept[kKept];
  float squares = 0;
  const auto value_at = [&](int c) {
    float x = to_float(residual[c]);
    if (delta != nullptr) x += to_float(delta[c]);
    return x * p.scale;
  };
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const int c = threadIdx.x + i * kThreads;
    if (c >= p.width) break;
    kept[i] = value_at(c);
    squares += kept[i] * kept[i];
    residual[c] = from_float<Residual>(kept[i]);
  }
  for (int c = threadIdx.x + kKept * kThreads; c < p.width; c += kThreads) {
    const float x = value_at(c);
    squares += x * x;
    residual[c] = from_float<Residual>(x);
  }
  const float factor = rsqrtf(block_sum(squares) / static_cast<float>(p.width) + p.eps);
  Y* y = p.y.row(blockIdx.x);
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const int c = threadIdx.x + i * kThreads;
    if (c >= p.width) break;
    y[c] = from_float<Y>(kept[i] * factor * p.weight[c]);
  }
  for (int c = threadIdx.x + kKept * kThreads; c < p.width; c += kThreads) {
    y[c] = from_float<Y>(to_float(residual[c]) * factor * p.weight[c]);
  }
}

class CudaAddNorm final : public Prepared<AddNorm> {
 public:
  CudaAddNorm(const AddNorm::Problem& problem, const AddNorm::Weights& weights,
              const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {
    const DeviceGuard guard(options.device.index);
    weight_ = to_device<float>(norm_weights(problem.norm, weights.weight, problem.width));
  }

  size_t workspace_size(const AddNorm::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return problem().width * static_cast<int64_t>(sizeof(float));
  }

  void run(const AddNorm::Args& args, std::span<std::byte>, const Stream& stream) const override {
    if (args.y.rows == 0) return;
    with_element(args.residual.format, [&](auto residual) {
      with_element(args.delta.format, [&](auto delta) {
        with_element(args.y.format, [&](auto y) {
          using P = Params<decltype(delta), decltype(residual), decltype(y)>;
          const P params{RowsOf<decltype(residual)>(args.residual),
                         RowsOf<decltype(delta)>(args.delta),
                         RowsOf<decltype(y)>(args.y),
                         args.rows,
                         weight_.get(),
                         static_cast<int>(problem().width),
                         problem().norm.eps,
                         args.scale};
          launch(add_norm_kernel<decltype(delta), decltype(residual), decltype(y)>,
                 {.grid = dim3(static_cast<unsigned>(args.y.rows)),
                  .block = dim3(kThreads),
                  .stream = static_cast<cudaStream_t>(stream.handle),
                  .dependent = dependent_},
                 params);
        });
      });
    });
  }

 private:
  DeviceArray<float> weight_;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<AddNorm>> prepare_on_cuda<AddNorm>(const AddNorm::Problem& problem,
                                                            const AddNorm::Weights& weights,
                                                            const OpOptions& options) {
  return std::make_unique<CudaAddNorm>(problem, weights, options);
}

}  // namespace moe4
