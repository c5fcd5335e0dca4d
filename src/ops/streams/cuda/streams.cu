// FillStreams and AddToStreams on NVIDIA GPUs: a thread four columns of a token.
#include "base/checked_math.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/implementation.h"
#include "ops/cuda/recurrent.cuh"
#include "ops/streams/cuda/number_of_streams.h"
#include "ops/streams/streams.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr int kThreads = 128, kColumns = 4;

// Of all rows, blocks side by side along a row.
LaunchShape shape_of(int64_t rows, int64_t width, const Stream& stream, bool dependent) {
  const int64_t pieces = ceil_div(width, int64_t{kThreads * kColumns});
  return {.grid = dim3(static_cast<unsigned>(rows), static_cast<unsigned>(pieces)),
          .block = dim3(kThreads),
          .stream = static_cast<cudaStream_t>(stream.handle),
          .dependent = dependent};
}
__device__ __forceinline__ int first_column() {
  return static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * kColumns;
}

__global__ void __launch_bounds__(kThreads)
    fill_kernel(RowsOf<float> x, RowsOf<float> streams, int width, int num_streams) {
  wait_for_previous_kernel();
  launch_dependents();
  const int d = first_column();
  if (d >= width) return;
  const float4 value = load4(x.row(blockIdx.x) + d);
  float* to = streams.row(blockIdx.x) + d;
  for (int i = 0; i < num_streams; ++i) store4(to + i * width, value);
}

template <int kStreams, typename T>
__global__ void __launch_bounds__(kThreads)
    add_kernel(RowsOf<T> y, RowsOf<float> coefficients, RowsOf<float> streams, int width) {
  wait_for_previous_kernel();
  launch_dependents();
  const int d = first_column();
  if (d >= width) return;
  const float *spread = coefficients.row(blockIdx.x), *matrix = spread + kStreams;
  float* own = streams.row(blockIdx.x) + d;
  Stored4<T> stored;
  stored.fetch_if(true, y.row(blockIdx.x) + d);
  float4 before[kStreams];
#pragma unroll
  for (int i = 0; i < kStreams; ++i) before[i] = load4(own + i * width);
  const float4 result = stored.values();
#pragma unroll
  for (int i = 0; i < kStreams; ++i) {
    const float part = spread[i];
    float4 sum{part * result.x, part * result.y, part * result.z, part * result.w};
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      const float factor = matrix[j * kStreams + i];
      sum = {fmaf(factor, before[j].x, sum.x), fmaf(factor, before[j].y, sum.y),
             fmaf(factor, before[j].z, sum.z), fmaf(factor, before[j].w, sum.w)};
    }
    store4(own + i * width, sum);
  }
}

class CudaFillStreams final : public Prepared<FillStreams> {
 public:
  CudaFillStreams(const StreamShape& problem, const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {}

  size_t workspace_size(const FillStreams::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }
  void run(const FillStreams::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    if (args.x.rows == 0) return;
    MOE4_CHECK(args.x.format == RowFormat::kF32 && args.streams.format == RowFormat::kF32);
    launch(fill_kernel, shape_of(args.x.rows, problem().width, stream, dependent_),
           RowsOf<float>(args.x), RowsOf<float>(args.streams), static_cast<int>(problem().width),
           static_cast<int>(problem().num_streams));
  }

 private:
  bool dependent_;
};

class CudaAddToStreams final : public Prepared<AddToStreams> {
 public:
  CudaAddToStreams(const StreamShape& problem, const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {}

  size_t workspace_size(const AddToStreams::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }
  void run(const AddToStreams::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    if (args.y.rows == 0) return;
    MOE4_CHECK(args.streams.format == RowFormat::kF32 &&
               args.coefficients.format == RowFormat::kF32);
    with_number_of_streams(problem().num_streams, [&](auto streams) {
      with_element(args.y.format, [&](auto element) {
        using T = decltype(element);
        launch(add_kernel<decltype(streams)::value, T>,
               shape_of(args.y.rows, problem().width, stream, dependent_), RowsOf<T>(args.y),
               RowsOf<float>(args.coefficients), RowsOf<float>(args.streams),
               static_cast<int>(problem().width));
      });
    });
  }

 private:
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<FillStreams>> prepare_on_cuda<FillStreams>(const StreamShape& problem,
                                                                    const FillStreams::Weights&,
                                                                    const OpOptions& options) {
  return std::make_unique<CudaFillStreams>(problem, options);
}

template <>
std::unique_ptr<Prepared<AddToStreams>> prepare_on_cuda<AddToStreams>(const StreamShape& problem,
                                                                      const AddToStreams::Weights&,
                                                                      const OpOptions& options) {
  return std::make_unique<CudaAddToStreams>(problem, options);
}

}  // namespace moe4
