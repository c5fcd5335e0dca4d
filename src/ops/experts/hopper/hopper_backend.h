// hopper: NVFP4 weights decoded into wgmma operands, BF16 activations, SM90 only.
#pragma once

#include "moe/experts.h"

namespace moe4 {

class HopperBackend final : public ExpertsBackend {
 public:
  std::string_view name() const override { return "hopper"; }
  Support supports(const ExpertsQuery& query) const override;
  BatchBehavior batch_behavior(const ExpertsQuery& query) const override;
  Support runnable(const Device& device) const override;
  /// "hopper.min_tokens": calls of at least this many tokens take wgmma; "hopper.tiles": tokens of
  /// a tile for every such call.
  std::span<const TuningOption> tuning_options() const override;
  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights& weights,
                                           const PrepareOptions& options) const override;
};

}  // namespace moe4
