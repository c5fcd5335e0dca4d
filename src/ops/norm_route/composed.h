// NormRoute as the three ops that it consists of.
#pragma once

#include "ops/norm_route/norm_route.h"

namespace moe4 {

class ComposedNormRoute : public Prepared<NormRoute> {
 public:
  ComposedNormRoute(const NormRoute::Problem& problem, const NormRoute::Weights& parts)
      : Prepared(problem), parts_(parts) {}

  /// Logits, then what the three need one after the other.
  size_t workspace_size(const NormRoute::Args& bound) const override;
  void run(const NormRoute::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    run_from(0, args, workspace, stream);
  }
  BatchInvariance batch_invariant() const override;
  int64_t weight_bytes() const override;

 protected:
  const NormRoute::Weights& parts() const { return parts_; }
  /// Rows from `first` on.
  void run_from(int64_t first, const NormRoute::Args& args, std::span<std::byte> workspace,
                const Stream& stream) const;

 private:
  NormRoute::Weights parts_;
};

}  // namespace moe4
