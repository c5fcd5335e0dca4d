// AddNorm: what calls must keep to, and who implements it.
#include "ops/norm/add_norm.h"

namespace moe4 {

std::vector<float> norm_weights(const NormSpec& spec, const TensorRef& weight, int64_t n) {
  std::vector<float> w =
      spec.has_weight ? float_vector(weight, n) : std::vector<float>(static_cast<size_t>(n), 1.0f);
  for (float& v : w) v = (spec.one_plus ? v + 1.0f : v) * spec.factor;
  return w;
}

void AddNorm::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(args.residual.width == problem.width && args.y.width == problem.width);
  MOE4_CHECK(args.delta.empty() ||
             (args.delta.width == problem.width && args.delta.rows == args.residual.rows));
  MOE4_CHECK(args.rows != nullptr || args.y.rows <= args.residual.rows || args.y.data == nullptr);
}

const Implementation<AddNorm>& cpu_add_norm();
const Implementation<AddNorm>& cuda_add_norm();
const Implementation<AddNorm>& reference_add_norm();

template <>
std::span<const Implementation<AddNorm>* const> implementations<AddNorm>() {
  static const Implementation<AddNorm>* const list[] = {&cpu_add_norm(), &cuda_add_norm(),
                                                        &reference_add_norm()};
  return list;
}

}  // namespace moe4
