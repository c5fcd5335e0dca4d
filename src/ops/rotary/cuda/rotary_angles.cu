// RotaryAngles on NVIDIA GPUs: a thread an angle.
#include <algorithm>

#include "device/cuda/divisor.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"
#include "ops/cuda/row_values.cuh"
#include "ops/rotary/rotary_angles.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr int kThreads = 128;

// Sine and cosine in float64: few values a step, and the CPU's bits.
__global__ void __launch_bounds__(kThreads)
    rotary_angles_kernel(const int32_t* positions, const float* frequencies, int half,
                         Divisor halves, int step, float amplitude, RowsOf<float> y, int count) {
  wait_for_previous_kernel();
  launch_dependents();
  const int index = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (index >= count) return;
  const int t = static_cast<int>(halves.divide(index)), i = index - t * half;
  const int position = max(positions[t], 0);
  const float angle = __fmul_rn(static_cast<float>(position - position % step), frequencies[i]);
  double sine, cosine;
  sincos(static_cast<double>(angle), &sine, &cosine);
  y.row(t)[i] = amplitude * static_cast<float>(cosine);
  y.row(t)[half + i] = amplitude * static_cast<float>(sine);
}

class CudaRotaryAngles final : public Prepared<RotaryAngles> {
 public:
  CudaRotaryAngles(const RotarySpec& problem, const OpOptions& options)
      : Prepared(problem), half_(problem.dim / 2), dependent_(options.device.sm >= 90) {
    const DeviceGuard guard(options.device.index);
    frequencies_ = to_device<float>(inverse_frequencies(problem));
  }

  size_t workspace_size(const RotaryAngles::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const RotaryAngles::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    const int64_t count = args.y.rows * half_;
    if (count == 0) return;
    MOE4_CHECK(args.y.format == RowFormat::kF32);
    launch(rotary_angles_kernel,
           {.grid = dim3(static_cast<unsigned>(ceil_div(count, int64_t{kThreads}))),
            .block = dim3(kThreads),
            .stream = static_cast<cudaStream_t>(stream.handle),
            .dependent = dependent_},
           args.positions, static_cast<const float*>(frequencies_.get()), static_cast<int>(half_),
           Divisor(half_), static_cast<int>(problem().step),
           static_cast<float>(problem().amplitude), RowsOf<float>(args.y), static_cast<int>(count));
  }

 private:
  DeviceArray<float> frequencies_;
  int64_t half_;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<RotaryAngles>> prepare_on_cuda<RotaryAngles>(const RotarySpec& problem,
                                                                      const RotaryAngles::Weights&,
                                                                      const OpOptions& options) {
  return std::make_unique<CudaRotaryAngles>(problem, options);
}

}  // namespace moe4
