// marlin: NVFP4 weights decoded in registers, BF16 activations, any GPU since SM80.
#pragma once

#include "moe/experts.h"

namespace moe4 {

class MarlinBackend final : public ExpertsBackend {
 public:
  std::string_view name() const override { return "marlin"; }
  Support supports(const ExpertsQuery& query) const override;
  /// Sums over K are cut by the shape alone.
  BatchBehavior batch_behavior(const ExpertsQuery&) const override { return {}; }
  Support runnable(const Device& device) const override;
  /// "marlin.fc2": rows or experts, the structure of FC2. The bits stay the same.
  std::span<const TuningOption> tuning_options() const override;
  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights& weights,
                                           const PrepareOptions& options) const override;
};

}  // namespace moe4
