// Feed-forward parts of a layer: a dense gated MLP, or routed experts with an optional shared one.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "layers/mixer.h"
#include "moe/host_experts.h"
#include "ops/gated_rows/gated_rows.h"
#include "ops/linear/linear_group.h"
#include "ops/route/route.h"

namespace moe4 {

/// down(activation(gate(x), up(x))).
class DenseMlp final : public FeedForward {
 public:
  /// `gate_up`: gate and up.
  DenseMlp(std::unique_ptr<Prepared<LinearGroup>> gate_up,
           std::unique_ptr<Prepared<LinearGroup>> down, const ActivationParams& activation,
           const OpOptions& options);
  void forward(const Rows& x, const Rows& y, Execution& execution) const override;
  int64_t weight_bytes() const override;

 private:
  std::unique_ptr<Prepared<LinearGroup>> gate_up_, down_;
  std::unique_ptr<Prepared<GatedRows>> gated_;
};

struct MoeBlockParts {
  int64_t layer = 0;  ///< for observers
  RouterConfig router;
  std::vector<float> correction_bias;  ///< [num_experts] or empty
  /// What reads the layer's input: the router; then, if there is a shared expert, its gate and up;
  /// then, if that is gated, its gate [1, hidden_size]: sigmoid(gate(x)) multiplies it.
  std::unique_ptr<Prepared<LinearGroup>> inputs;
  std::unique_ptr<HostExperts> experts;
  std::unique_ptr<Prepared<LinearGroup>> shared_down;  ///< null: no shared expert
  ActivationParams shared_activation;
};

/// Router, routed experts by a backend, plus the shared expert.
class MoeBlock final : public FeedForward {
 public:
  MoeBlock(MoeBlockParts parts, const OpOptions& options);
  void forward(const Rows& x, const Rows& y, Execution& execution) const override;
  int64_t weight_bytes() const override;

  int64_t top_k() const { return route_->problem().top_k; }
  /// topk_ids and topk_weights [T, top_k] for x.
  void route(const Rows& x, int32_t* topk_ids, float* topk_weights, Execution& execution) const;
  HostExperts& experts() const { return *parts_.experts; }

 private:
  using Inputs = std::array<Rows, 4>;
  /// Takes rows from the arena for what `inputs` of the parts yields, and makes it.
  void run_inputs(const Rows& x, Inputs& inputs, Execution& execution) const;

  MoeBlockParts parts_;
  std::unique_ptr<Prepared<Route>> route_;
  std::unique_ptr<Prepared<GatedRows>> gated_;
  std::unique_ptr<Prepared<AddScaled>> add_;
};

}  // namespace moe4
