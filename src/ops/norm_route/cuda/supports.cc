// NormRoute as one kernel: what it takes.
#include "ops/cuda/implementation.h"
#include "ops/norm_route/cuda/limits.h"
#include "ops/norm_route/norm_route.h"

namespace moe4 {
namespace {

using namespace cuda;

class ClusterSm90 final : public Implementation<NormRoute> {
 public:
  std::string_view name() const override { return "cluster_sm90"; }
  Support supports(const NormRoute::Problem& problem, const Device& device) const override {
    using Kind = Rejection::Kind;
    if (device.is_cpu()) return Rejection{Kind::kDevice, "it needs an NVIDIA GPU"};
    if (device.sm != 90) return Rejection{Kind::kDevice, "it needs sm_90"};
    const auto wrong = [](const char* what, int64_t value, const std::string& expected) {
      return Rejection{Kind::kShape,
                       std::string(what) + " " + std::to_string(value) + " is not " + expected};
    };
    if (!problem.bf16_router) return Rejection{Kind::kScheme, "the router's weights are not BF16"};
    const int64_t width = problem.norm.width;
    if (width % 8 != 0 || width <= kLeastRouteWidth || width > kMostRouteWidth) {
      return wrong("hidden_size", width,
                   "a multiple of 8 from " + std::to_string(kLeastRouteWidth + 8) + " to " +
                       std::to_string(kMostRouteWidth));
    }
    const RouterConfig& route = problem.route;
    if (route.num_experts > most_route_experts(width)) {
      return wrong("num_experts", route.num_experts,
                   std::to_string(most_route_experts(width)) + " or less");
    }
    if (route.num_slots() > 32) return wrong("top_k", route.num_slots(), "32 or less");
    if (route.num_groups > 1) return wrong("n_group", route.num_groups, "1");
    if (route.scoring == ScoringFunction::kSqrtSoftplus || route.by_token) {
      return Rejection{Kind::kShape, "neither roots of softplus nor experts by token id"};
    }
    return std::nullopt;
  }
  std::unique_ptr<Prepared<NormRoute>> prepare(const NormRoute::Problem& problem,
                                               const NormRoute::Weights& weights,
                                               const OpOptions& options) const override {
    return prepare_on_cuda<NormRoute>(problem, weights, options);
  }
};

}  // namespace

const Implementation<NormRoute>& cluster_sm90_norm_route() {
  static const ClusterSm90 implementation;
  return implementation;
}

}  // namespace moe4
