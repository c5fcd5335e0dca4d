// A shared expert that is computed as one more of the routed ones: four launches a layer less.
#include <fmt/format.h>

#include "base/error.h"
#include "models/builder.h"
#include "moe/shard.h"

namespace moe4 {

int64_t Builder::shared_experts(const std::string& at, const MoeSpec& spec,
                                const MoeProblem& routed, Support& why) {
  using Kind = Rejection::Kind;
  const SharedExpertSpec& shared = spec.shared;
  const auto no = [&](Kind kind, std::string message) {
    why = Rejection{kind, std::move(message)};
    return int64_t{0};
  };
  if (spec.latent_size > 0) {
    return no(Kind::kShape, fmt::format("routed experts work on a latent of {}", spec.latent_size));
  }
  if (!spec.experts_norm.empty()) {
    return no(Kind::kShape, "routed experts have a norm of their own before them");
  }
  if (shared.activation != spec.activation) {
    return no(Kind::kActivation,
              fmt::format("its activation is {}, theirs {}", to_string(shared.activation),
                          to_string(spec.activation)));
  }
  if (shared.intermediate_size % spec.intermediate_size != 0) {
    return no(Kind::kShape, fmt::format("its intermediate size is {}, no multiple of their {}",
                                        shared.intermediate_size, spec.intermediate_size));
  }
  RouterConfig router = spec.router;
  router.shared_experts = shared.intermediate_size / spec.intermediate_size;
  if (ask<Route>(router, device()).implementation == nullptr) {
    return no(Kind::kShape, fmt::format("the router does not take {} of {} experts and it",
                                        router.top_k, router.num_experts));
  }
  const auto kind = experts_kind(at + spec.experts, routed, router.shared_experts);
  if (!kind) return no(Kind::kShape, "nobody takes routed experts and it");
  if (kind->device.is_cpu()) {
    return no(Kind::kShape, fmt::format("routed experts run on {}", to_string(kind->device)));
  }
  if (kind->precision != ActivationPrecision::kBf16) {
    return no(Kind::kPrecision,
              fmt::format("they quantise their inputs ({})", to_string(kind->precision)));
  }
  const std::string module = at + shared.module + ".";
  std::vector<LinearSpec> linears = gate_and_up(at, shared);
  linears.push_back({module + shared.down_proj, hidden_size_});
  for (const LinearSpec& linear : linears) {
    try {
      const QuantScheme scheme = checkpoint().linear_header(linear.module).scheme;
      if (scheme.weight == kind->scheme.weight) continue;
      return no(Kind::kScheme,
                fmt::format("it is {}, they are {}", to_string(scheme), to_string(kind->scheme)));
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kBadInput) throw;
      return no(Kind::kShape, "its tensors are missing or unusable");  // which others report
    }
  }
  return router.shared_experts;
}

std::vector<ExpertWeights> Builder::shared_expert_weights(const std::string& at,
                                                          const MoeSpec& spec,
                                                          const MoeProblem& routed, int64_t count) {
  std::vector<ExpertWeights> experts;
  if (count == 0) return experts;
  const std::string module = at + spec.shared.module + ".";
  const int64_t width = spec.shared.intermediate_size;
  const auto gate = spec.activation.is_gated()
                        ? linear({module + spec.shared.gate_proj, width}, hidden_size_)
                        : std::nullopt;
  const auto up = linear({module + spec.shared.up_proj, width}, hidden_size_);
  const auto down = linear({module + spec.shared.down_proj, hidden_size_}, width);
  if (is_describing()) return std::vector<ExpertWeights>(static_cast<size_t>(count));
  MoeLayerWeights whole{.problem = routed, .scheme = up->scheme};
  whole.problem.intermediate_size = width;
  whole.experts.push_back({.gate = gate, .up = *up, .down = *down});
  if (count == 1) return whole.experts;
  for (int64_t i = 0; i < count; ++i) {
    experts.push_back(
        shard_weights(whole, static_cast<int>(count), static_cast<int>(i)).experts.front());
  }
  return experts;
}

}  // namespace moe4
