// QkvToCache: what calls must keep to, and who implements it.
#include "ops/qkv_to_cache/qkv_to_cache.h"

namespace moe4 {

void QkvToCache::check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.queries.rows, kv_width = problem.num_kv_heads * problem.head_dim;
  MOE4_CHECK(args.q.rows == tokens && args.q.width == problem.q_width());
  MOE4_CHECK(args.k.rows == tokens && args.k.width == kv_width);
  MOE4_CHECK(problem.keys_alone ||
             (args.v.rows == tokens && args.v.width == problem.num_kv_heads * problem.value_dim()));
  MOE4_CHECK(!problem.keys_alone || (!problem.keys_are_values && !problem.value_norm));
  MOE4_CHECK(problem.value_width <= problem.head_dim);
  MOE4_CHECK(problem.value_width == 0 || !problem.keys_are_values);
  MOE4_CHECK(!problem.value_norm || !problem.value_norm->has_weight);
  MOE4_CHECK(problem.rotary_dim == 0 ||
             (args.angles.rows == tokens && args.angles.width == problem.rotary_dim));
  MOE4_CHECK(args.queries.width == problem.num_heads * problem.head_dim);
  MOE4_CHECK(args.cache.unit_bytes >= cache_unit_bytes(problem.cache()));
}

const Implementation<QkvToCache>& cpu_qkv_to_cache();
const Implementation<QkvToCache>& cuda_qkv_to_cache();
const Implementation<QkvToCache>& reference_qkv_to_cache();

template <>
std::span<const Implementation<QkvToCache>* const> implementations<QkvToCache>() {
  static const Implementation<QkvToCache>* const list[] = {
      &cpu_qkv_to_cache(), &cuda_qkv_to_cache(), &reference_qkv_to_cache()};
  return list;
}

}  // namespace moe4
