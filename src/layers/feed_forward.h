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

struct DenseMlpParts {
  std::unique_ptr<Prepared<LinearGroup>> gate_up;  ///< gate and up
  std::unique_ptr<Prepared<GatedRows>> gated;
  std::unique_ptr<Prepared<LinearGroup>> down;
};

/// down(activation(gate(x), up(x))).
class DenseMlp final : public FeedForward {
 public:
  explicit DenseMlp(DenseMlpParts parts) : parts_(std::move(parts)) {}
  void forward(const LayerStep& step, const Rows& x, const Rows& y) const override;
  int64_t weight_bytes() const override;

 private:
  DenseMlpParts parts_;
};

struct MoeBlockParts {
  int64_t layer = 0;  ///< for observers
  /// What reads the layer's input: the router; then, if there is a shared expert, its gate and up;
  /// then, if that is gated, its gate [1, hidden_size]: sigmoid(gate(x)) multiplies it.
  std::unique_ptr<Prepared<LinearGroup>> inputs;
  std::unique_ptr<Prepared<Route>> route;
  std::unique_ptr<HostExperts> experts;
  // The shared expert; null: there is none.
  std::unique_ptr<Prepared<GatedRows>> shared_gated;
  std::unique_ptr<Prepared<LinearGroup>> shared_down;
  std::unique_ptr<Prepared<AddScaled>> add_shared;
};

/// Router, routed experts by a backend, plus the shared expert.
class MoeBlock final : public FeedForward {
 public:
  explicit MoeBlock(MoeBlockParts parts);
  void forward(const LayerStep& step, const Rows& x, const Rows& y) const override;
  int64_t weight_bytes() const override;

  int64_t top_k() const { return parts_.route->problem().top_k; }
  /// topk_ids and topk_weights [T, top_k] for x.
  void route(const Rows& x, int32_t* topk_ids, float* topk_weights, Execution& execution) const;
  HostExperts& experts() const { return *parts_.experts; }

 private:
  using Inputs = std::array<Rows, 4>;
  /// Takes rows from the arena for what `inputs` of the parts yields, and makes it.
  void run_inputs(const Rows& x, Inputs& inputs, Execution& execution) const;

  MoeBlockParts parts_;
};

}  // namespace moe4
