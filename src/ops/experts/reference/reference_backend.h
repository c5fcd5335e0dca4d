// The oracle: every scheme and activation mode on the CPU, accumulated in float64 over exactly
// decoded values.
#pragma once

#include "moe/experts.h"

namespace moe4 {

/// Always there, always right, never fast. With kF32 inputs nothing is rounded to BF16; with BF16
/// inputs the intermediate is rounded to BF16 before it is quantised for FC2 (FP4 and FP8 modes),
/// as the kernels do.
class ReferenceBackend final : public ExpertsBackend {
 public:
  std::string_view name() const override { return "reference"; }
  Support supports(const ExpertsQuery& query) const override;
  BatchBehavior batch_behavior(const ExpertsQuery&) const override { return {}; }
  Support runnable(const Device& device) const override;
  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights& weights,
                                           const PrepareOptions& options) const override;
};

}  // namespace moe4
