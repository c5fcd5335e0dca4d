// Route on NVIDIA GPUs.
#pragma once

#include "device/cuda/device_buffer.h"
#include "ops/route/route.h"

namespace moe4 {

class CudaRoute final : public Prepared<Route> {
 public:
  CudaRoute(const RouterConfig& problem, const Route::Weights& weights, const OpOptions& options);

  size_t workspace_size(const Route::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return bytes_; }
  void run(const Route::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override;

  // [num_experts] on the device; null: there are none.
  const float* bias() const { return bias_.get(); }
  const float* scale() const { return scale_.get(); }

 private:
  cuda::DeviceArray<float> bias_, scale_;
  cuda::DeviceArray<int32_t> of_token_;  // [vocabulary, top_k], of by_token
  int64_t bytes_ = 0;
  bool dependent_;
};

}  // namespace moe4
