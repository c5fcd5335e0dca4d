// DeltaNet: what calls must keep to, and who implements it.
#include "ops/delta_net/delta_net.h"

namespace moe4 {

void DeltaNet::check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.batch->num_tokens, heads = problem.num_value_heads;
  MOE4_CHECK(args.qkv.rows == tokens && args.qkv.width == problem.channels());
  MOE4_CHECK(args.z.rows == tokens && args.z.width == problem.values());
  MOE4_CHECK(args.qkv.format == args.z.format);
  MOE4_CHECK(args.a.format == RowFormat::kF32 && args.b.format == RowFormat::kF32);
  MOE4_CHECK(args.a.rows == tokens && args.a.width == heads);
  MOE4_CHECK(args.b.rows == tokens && args.b.width == heads);
  MOE4_CHECK(args.y.rows == tokens && args.y.width == problem.values());
  MOE4_CHECK(args.cache.unit_bytes >= problem.state_bytes());
}

const Implementation<DeltaNet>& cpu_delta_net();
const Implementation<DeltaNet>& cuda_delta_net();
const Implementation<DeltaNet>& reference_delta_net();

template <>
std::span<const Implementation<DeltaNet>* const> implementations<DeltaNet>() {
  static const Implementation<DeltaNet>* const list[] = {&cpu_delta_net(), &cuda_delta_net(),
                                                         &reference_delta_net()};
  return list;
}

}  // namespace moe4
