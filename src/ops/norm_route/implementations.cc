// NormRoute: what calls must keep to, and who implements it.
#include "ops/norm_route/composed.h"

namespace moe4 {

void NormRoute::check(const Problem& problem, const Args& args) {
  AddNorm::check(problem.norm, {.residual = args.residual, .delta = args.delta, .y = args.y});
  MOE4_CHECK(args.residual.rows == args.y.rows);
  MOE4_CHECK(problem.router.in_features == problem.norm.width);
  MOE4_CHECK(problem.router.members.size() == (problem.route.shared_gate ? 2u : 1u));
  MOE4_CHECK(problem.router.members[0].out_features == problem.route.num_experts);
}

namespace {

class Composed final : public Implementation<NormRoute> {
 public:
  explicit Composed(std::string_view name, Support verdict)
      : name_(name), verdict_(std::move(verdict)) {}
  std::string_view name() const override { return name_; }
  Support supports(const NormRoute::Problem&, const Device&) const override { return verdict_; }
  std::unique_ptr<Prepared<NormRoute>> prepare(const NormRoute::Problem& problem,
                                               const NormRoute::Weights& weights,
                                               const OpOptions&) const override {
    return std::make_unique<ComposedNormRoute>(problem, weights);
  }

 private:
  std::string_view name_;
  Support verdict_;
};

}  // namespace

const Implementation<NormRoute>& cluster_sm90_norm_route();

template <>
std::span<const Implementation<NormRoute>* const> implementations<NormRoute>() {
  static const Composed composed("composed", std::nullopt);
  // Of float64 where its parts are.
  static const Composed reference("reference",
                                  Rejection{Rejection::Kind::kDevice, "it is for tests"});
  static const Implementation<NormRoute>* const list[] = {&cluster_sm90_norm_route(), &composed,
                                                          &reference};
  return list;
}

}  // namespace moe4
