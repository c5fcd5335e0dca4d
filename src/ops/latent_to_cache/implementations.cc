// LatentToCache: what calls must keep to, and who implements it.
#include "ops/latent_to_cache/latent_to_cache.h"

namespace moe4 {

void LatentToCache::check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.kv.rows;
  MOE4_CHECK(args.kv.width == problem.latent_dim + problem.rope_dim);
  MOE4_CHECK(problem.q_latent_dim == 0 ||
             (args.q_latent.rows == tokens && args.q_latent.width == problem.q_latent_dim));
  MOE4_CHECK(args.angles.rows == tokens && args.angles.width == problem.rope_dim);
  MOE4_CHECK(args.cache.unit_bytes >= cache_unit_bytes(problem.cache()));
}

const Implementation<LatentToCache>& cpu_latent_to_cache();
const Implementation<LatentToCache>& cuda_latent_to_cache();
const Implementation<LatentToCache>& reference_latent_to_cache();

template <>
std::span<const Implementation<LatentToCache>* const> implementations<LatentToCache>() {
  static const Implementation<LatentToCache>* const list[] = {
      &cpu_latent_to_cache(), &cuda_latent_to_cache(), &reference_latent_to_cache()};
  return list;
}

}  // namespace moe4
