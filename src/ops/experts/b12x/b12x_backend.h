// b12x: FP4 x FP4 tensor cores of SM120 and SM121, activations quantised inside the kernel or kept
// in BF16.
#pragma once

#include "moe/experts.h"

namespace moe4 {

class B12xBackend final : public ExpertsBackend {
 public:
  std::string_view name() const override { return "b12x"; }
  Support supports(const ExpertsQuery& query) const override;
  /// Sums over K are cut by the shape alone.
  BatchBehavior batch_behavior(const ExpertsQuery&) const override { return {}; }
  Support runnable(const Device& device) const override;
  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights& weights,
                                           const PrepareOptions& options) const override;
};

}  // namespace moe4
