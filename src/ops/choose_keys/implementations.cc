// ChooseKeys: what calls must keep to, and who implements it.
#include "ops/choose_keys/choose_keys.h"

namespace moe4 {

void ChooseKeys::check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.batch->num_tokens;
  MOE4_CHECK(problem.most > 0 && problem.ratio > 0);
  MOE4_CHECK(problem.rotary_dim % 2 == 0 && problem.rotary_dim <= problem.dim);
  MOE4_CHECK(args.q.rows == tokens && args.q.width == problem.num_heads * problem.dim);
  MOE4_CHECK(args.weights.rows == tokens && args.weights.width == problem.num_heads);
  MOE4_CHECK(args.angles.rows == tokens && args.angles.width == problem.rotary_dim);
  MOE4_CHECK(args.cache.unit_bytes >= cache_unit_bytes(problem.cache()));
}

const Implementation<ChooseKeys>& cpu_choose_keys();
const Implementation<ChooseKeys>& cuda_choose_keys();
const Implementation<ChooseKeys>& reference_choose_keys();

template <>
std::span<const Implementation<ChooseKeys>* const> implementations<ChooseKeys>() {
  static const Implementation<ChooseKeys>* const list[] = {&cpu_choose_keys(), &cuda_choose_keys(),
                                                           &reference_choose_keys()};
  return list;
}

}  // namespace moe4
