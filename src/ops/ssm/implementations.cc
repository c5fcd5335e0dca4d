// Ssm: what calls must keep to, and who implements it.
#include "ops/ssm/ssm.h"

namespace moe4 {

void Ssm::check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.batch->num_tokens;
  MOE4_CHECK(args.z.rows == tokens && args.z.width == problem.inner());
  MOE4_CHECK(args.u.rows == tokens && args.u.width == problem.channels());
  MOE4_CHECK(args.z.format == args.u.format && args.z.format == args.dt.format);
  MOE4_CHECK(args.dt.rows == tokens && args.dt.width == problem.num_heads);
  MOE4_CHECK(args.y.rows == tokens && args.y.width == problem.inner());
  MOE4_CHECK(args.cache.unit_bytes >= problem.state_bytes());
}

const Implementation<Ssm>& cpu_ssm();
const Implementation<Ssm>& cuda_ssm();
const Implementation<Ssm>& reference_ssm();

template <>
std::span<const Implementation<Ssm>* const> implementations<Ssm>() {
  static const Implementation<Ssm>* const list[] = {&cpu_ssm(), &cuda_ssm(), &reference_ssm()};
  return list;
}

}  // namespace moe4
