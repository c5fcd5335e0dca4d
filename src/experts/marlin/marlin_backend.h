// marlin: NVFP4 weights decoded in registers, BF16 activations, any GPU since SM80.
#pragma once

#include "moe/experts.h"

namespace moe4 {

class MarlinBackend final : public ExpertsBackend {
 public:
  std::string_view name() const override { return "marlin"; }
  Support supports(const ExpertsQuery& query) const override;
  Support runnable(const Device& device) const override;
  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights& weights,
                                           const PrepareOptions& options) const override;
};

}  // namespace moe4
