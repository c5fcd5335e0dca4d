// IndexToCache: what calls must keep to, and who implements it.
#include "ops/index_to_cache/index_to_cache.h"

namespace moe4 {

void IndexToCache::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(args.k.width == problem.dim);
  MOE4_CHECK(problem.rotary_dim % 2 == 0 && problem.rotary_dim <= problem.dim);
  MOE4_CHECK(args.angles.rows == args.k.rows && args.angles.width == problem.rotary_dim);
  MOE4_CHECK(args.cache.unit_bytes >= cache_unit_bytes(problem.cache()));
}

const Implementation<IndexToCache>& cpu_index_to_cache();
const Implementation<IndexToCache>& cuda_index_to_cache();
const Implementation<IndexToCache>& reference_index_to_cache();

template <>
std::span<const Implementation<IndexToCache>* const> implementations<IndexToCache>() {
  static const Implementation<IndexToCache>* const list[] = {
      &cpu_index_to_cache(), &cuda_index_to_cache(), &reference_index_to_cache()};
  return list;
}

}  // namespace moe4
