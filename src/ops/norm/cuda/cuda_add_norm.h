// AddNorm on NVIDIA GPUs.
#pragma once

#include "device/cuda/device_buffer.h"
#include "ops/norm/add_norm.h"

namespace moe4 {

class CudaAddNorm final : public Prepared<AddNorm> {
 public:
  CudaAddNorm(const AddNorm::Problem& problem, const AddNorm::Weights& weights,
              const OpOptions& options);

  size_t workspace_size(const AddNorm::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return problem().width * static_cast<int64_t>(sizeof(float));
  }
  void run(const AddNorm::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override;

  /// The multiplier, as many as whole vectors need; on the device.
  const float* weight() const { return weight_.get(); }

 private:
  cuda::DeviceArray<float> weight_;
  bool dependent_;
};

}  // namespace moe4
