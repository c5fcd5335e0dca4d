// Feed-forward parts of a layer: a dense MLP, or routed experts with an optional shared one.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "layers/mixer.h"
#include "moe/routed_experts.h"
#include "ops/gated_rows/gated_rows.h"
#include "ops/linear/linear_group.h"
#include "ops/norm/add_norm.h"
#include "ops/norm_route/norm_route.h"
#include "ops/route/route.h"

namespace moe4 {

struct DenseMlpParts {
  /// Gate and up; up alone when the activation has no gate.
  std::unique_ptr<Prepared<LinearGroup>> gate_up;
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
  /// What reads the layer's input, as far as it is there: the router; the shared expert's gate (of
  /// an activation with a gate), its up, and the gate [1, hidden_size] of its output, whose sigmoid
  /// multiplies that; the projection to the latent that routed experts work on. Where shared
  /// experts are the last of `experts` (RouterConfig::shared_experts): the router and that gate.
  std::unique_ptr<Prepared<LinearGroup>> inputs;
  /// Norms of x that the router, or the routed experts, read instead of x; null: there are none.
  /// With a router_norm, `inputs` has the router alone.
  std::unique_ptr<Prepared<AddNorm>> router_norm, experts_norm;
  std::unique_ptr<Prepared<Route>> route;
  std::unique_ptr<RoutedExperts> experts;
  std::unique_ptr<Prepared<LinearGroup>> from_latent;  ///< null: the experts work on x itself
  // The shared expert; null: there is none, or it is one of `experts`.
  std::unique_ptr<Prepared<GatedRows>> shared_gated;
  std::unique_ptr<Prepared<LinearGroup>> shared_down;
  std::unique_ptr<Prepared<AddScaled>> add_shared;
};

/// Which experts take some tokens, and with which weights.
struct Routing {
  const int32_t* topk_ids = nullptr;    ///< [T, num_slots]
  const float* topk_weights = nullptr;  ///< [T, num_slots]
  int64_t num_decode_tokens = 0;        ///< see ExpertsCall
};

/// Router, routed experts by a backend, plus the shared expert.
class MoeBlock final : public FeedForward {
 public:
  explicit MoeBlock(MoeBlockParts parts);
  void forward(const LayerStep& step, const Rows& x, const Rows& y) const override;
  void forward_normed(const LayerStep& step, const Prepared<AddNorm>& norm,
                      const AddNorm::Args& args, const Rows& y) const override;
  int64_t weight_bytes() const override;
  const MoeBlock* routed() const override { return this; }

  /// `norm` and this block's own, where inputs are those of the router alone.
  NormRoute::Weights router_parts(const Prepared<AddNorm>& norm) const {
    return {&norm, parts_.inputs.get(), parts_.route.get()};
  }
  /// What forward_normed() does from now on, up to the choice of experts: prepared for
  /// router_parts() of its norm.
  void begin_with(std::unique_ptr<Prepared<NormRoute>> norm_route);

  /// Its num_slots() are those of what follows; slots from top_k on are shared experts'.
  const RouterConfig& router() const { return parts_.route->problem(); }
  /// topk_ids and topk_weights [T, num_slots] for x. Throws Error(kUsage) where a token's
  /// experts are given by its id.
  void route(const Rows& x, int32_t* topk_ids, float* topk_weights, Execution& execution) const;
  /// y = what the experts of `routing` alone make of x [T, hidden_size], latent projections
  /// included.
  void run_routed(const Rows& x, const Routing& routing, const Rows& y, Execution& execution) const;
  RoutedExperts& experts() const { return *parts_.experts; }

 private:
  struct Inputs {
    Rows logits;  ///< what Route reads
    std::array<Rows, 5> members;
  };
  /// Takes rows from the arena for what `inputs` of the parts yields, and makes it.
  void run_inputs(const Rows& x, int64_t num_decode_tokens, Inputs& inputs,
                  Execution& execution) const;
  /// The same when `unnormed` is what the experts themselves read, or its norm: x or its latent.
  void run_experts_on(const Rows& unnormed, const Routing& routing, const Rows& y,
                      Execution& execution) const;

  MoeBlockParts parts_;
  std::unique_ptr<Prepared<NormRoute>> norm_route_;  // null: there is none
  /// x or its norm.
  static Rows normed(const Prepared<AddNorm>* norm, const Rows& x, Execution& execution);

  // Places in MoeBlockParts::inputs; 0, the router's, where there is none.
  size_t gate_ = 0, up_ = 0, shared_gate_ = 0, to_latent_ = 0;
};

struct ParallelMoeParts {
  std::unique_ptr<FeedForward> mlp, moe;
  std::unique_ptr<Prepared<AddNorm>> mlp_norm, moe_norm;
  std::unique_ptr<Prepared<AddScaled>> add;
};

/// mlp_norm(mlp(x)) + moe_norm(moe(h)), h being the residual that x is the norm of (Gemma-4).
class ParallelMoe final : public FeedForward {
 public:
  explicit ParallelMoe(ParallelMoeParts parts) : parts_(std::move(parts)) {}
  void forward(const LayerStep& step, const Rows& x, const Rows& y) const override;
  int64_t weight_bytes() const override {
    return parts_.mlp->weight_bytes() + parts_.moe->weight_bytes();
  }
  const MoeBlock* routed() const override { return parts_.moe->routed(); }

 private:
  ParallelMoeParts parts_;
};

}  // namespace moe4
