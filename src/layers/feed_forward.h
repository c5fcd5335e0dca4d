// Feed-forward parts of a layer: a dense gated MLP, or routed experts with an optional shared one.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "layers/linear.h"
#include "moe/host_experts.h"
#include "moe/routing.h"

namespace moe4 {

class FeedForward {
 public:
  virtual ~FeedForward() = default;
  /// out [T, hidden_size] dense is overwritten.
  virtual void forward(LayerContext& context, const Activations& x, int64_t num_tokens,
                       float* out) const = 0;
  /// Weight bytes read for one token.
  virtual int64_t weight_bytes() const = 0;
};

/// down(silu(gate(x)) * up(x)).
struct MlpWeights {
  Linear gate_proj, up_proj, down_proj;
};

class DenseMlp final : public FeedForward {
 public:
  explicit DenseMlp(MlpWeights weights) : weights_(std::move(weights)) {}
  void forward(LayerContext& context, const Activations& x, int64_t num_tokens,
               float* out) const override;
  int64_t weight_bytes() const override;

 private:
  MlpWeights weights_;
};

struct MoeBlockParts {
  RouterConfig router_config;
  Linear router;                       ///< [num_experts, hidden_size]; its input is never quantised
  std::vector<float> correction_bias;  ///< [num_experts] or empty
  std::unique_ptr<HostExperts> experts;
  std::optional<MlpWeights> shared;
  std::optional<Linear>
      shared_gate;  ///< [1, hidden_size]: sigmoid(gate(x)) multiplies the shared expert
};

/// Router in float32, routed experts by a backend, plus the shared expert.
class MoeBlock final : public FeedForward {
 public:
  explicit MoeBlock(MoeBlockParts parts);
  void forward(LayerContext& context, const Activations& x, int64_t num_tokens,
               float* out) const override;
  int64_t weight_bytes() const override;

  int64_t top_k() const { return parts_.router_config.top_k; }
  int64_t num_experts() const { return parts_.router_config.num_experts; }
  /// What the router says of x: logits [T, num_experts].
  void router_logits(LayerContext& context, const Activations& x, int64_t num_tokens,
                     float* logits) const;
  /// topk_ids and topk_weights [T, k] for x.
  void route(LayerContext& context, const Activations& x, int64_t num_tokens, int32_t* topk_ids,
             float* topk_weights) const;
  /// The routed experts alone, y [T, hidden_size] float32. x is rounded to BF16 for backends that
  /// take nothing else.
  void run_experts(LayerContext& context, const Activations& x, int64_t num_tokens,
                   const int32_t* topk_ids, const float* topk_weights, float* y) const;

 private:
  void select(LayerContext& context, const float* logits, int64_t num_tokens, int32_t* topk_ids,
              float* topk_weights) const;

  MoeBlockParts parts_;
};

}  // namespace moe4
