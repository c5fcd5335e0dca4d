// CompressToCache: what calls must keep to, and who implements it.
#include "ops/compress_to_cache/compress_to_cache.h"

namespace moe4 {

void CompressToCache::check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.batch->num_tokens;
  MOE4_CHECK(problem.ratio > 0);
  MOE4_CHECK(kPageTokens % problem.ratio == 0 || problem.ratio % kPageTokens == 0);
  MOE4_CHECK(problem.rotary_dim % 2 == 0 && problem.rotary_dim <= problem.dim);
  MOE4_CHECK(args.kv.rows == tokens && args.kv.width == problem.width());
  MOE4_CHECK(args.gate.rows == tokens && args.gate.width == problem.width());
  MOE4_CHECK(args.angles.rows == tokens && args.angles.width == problem.rotary_dim);
  MOE4_CHECK(args.cache.unit_bytes >= cache_unit_bytes(problem.cache()));
  // Of state(), which would allocate.
  MOE4_CHECK(args.state.unit_bytes >= 3 * problem.width() * int64_t{sizeof(float)});
}

const Implementation<CompressToCache>& cpu_compress_to_cache();
const Implementation<CompressToCache>& cuda_compress_to_cache();
const Implementation<CompressToCache>& reference_compress_to_cache();

template <>
std::span<const Implementation<CompressToCache>* const> implementations<CompressToCache>() {
  static const Implementation<CompressToCache>* const list[] = {
      &cpu_compress_to_cache(), &cuda_compress_to_cache(), &reference_compress_to_cache()};
  return list;
}

}  // namespace moe4
