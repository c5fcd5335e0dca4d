// LinearGroup on NVIDIA GPUs.
#pragma once

#include "ops/linear/cuda/packed_group.h"

namespace moe4 {

class CudaLinearGroup final : public Prepared<LinearGroup> {
 public:
  CudaLinearGroup(const LinearGroup::Problem& problem, const LinearGroup::Weights& weights,
                  const OpOptions& options);

  /// Rows become what the kernels for many tokens read there.
  size_t workspace_size(const LinearGroup::Args& bound) const override;
  void run(const LinearGroup::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override;
  BatchInvariance batch_invariant() const override { return BatchInvariance::kByPhase; }
  int64_t weight_bytes() const override { return packed_.bytes(); }

  /// For tables that share the weights of a group of one (Embed).
  const cuda::PackedGroup& packed() const { return packed_; }

 private:
  cuda::PackedGroup packed_;
  Device device_;
  int shared_bytes_ = 0;
  int clusters_ = 0;  ///< LinearCall::clusters
};

}  // namespace moe4
