// LinearGroup: what calls must keep to, and who implements it.
#include "ops/linear/linear_group.h"

namespace moe4 {

void LinearGroup::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(args.x.width == problem.in_features);
  MOE4_CHECK(args.y.size() == problem.members.size());
  for (size_t i = 0; i < args.y.size(); ++i) {
    MOE4_CHECK(args.y[i].rows == args.x.rows);
    MOE4_CHECK(args.y[i].width == problem.members[i].out_features);
  }
}

LinearGroup::Problem LinearGroup::problem_of(const Weights& weights,
                                             std::span<const LinearOptions> options) {
  MOE4_CHECK(!weights.members.empty() && options.size() == weights.members.size());
  Problem problem{.in_features = weights.members.front().in_features};
  for (size_t i = 0; i < options.size(); ++i) {
    const LinearWeights& w = weights.members[i];
    MOE4_CHECK(w.in_features == problem.in_features);
    problem.members.push_back({w.out_features, w.scheme, options[i]});
  }
  return problem;
}

const Implementation<LinearGroup>& cpu_linear_group();
const Implementation<LinearGroup>& cuda_linear_group();
const Implementation<LinearGroup>& reference_linear_group();

template <>
std::span<const Implementation<LinearGroup>* const> implementations<LinearGroup>() {
  static const Implementation<LinearGroup>* const list[] = {
      &cpu_linear_group(), &cuda_linear_group(), &reference_linear_group()};
  return list;
}

}  // namespace moe4
