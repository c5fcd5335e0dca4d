// CompressedAttention: what calls must keep to, and who implements it.
#include "ops/compressed_attention/compressed_attention.h"

namespace moe4 {

void CompressedAttention::check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.batch->num_tokens, width = problem.num_heads * problem.head_dim;
  MOE4_CHECK(problem.window > 0);
  MOE4_CHECK(problem.rotary_dim % 2 == 0 && problem.rotary_dim <= problem.head_dim);
  MOE4_CHECK(args.queries.rows == tokens && args.queries.width == width);
  MOE4_CHECK(args.angles.rows == tokens && args.angles.width == problem.rotary_dim);
  MOE4_CHECK(args.y.rows == tokens && args.y.width == width);
  MOE4_CHECK(args.cache.unit_bytes >= cache_unit_bytes(problem.cache()));
  MOE4_CHECK(problem.ratio == 0 || args.entries.unit_bytes >= cache_unit_bytes(problem.entries()));
}

const Implementation<CompressedAttention>& cpu_compressed_attention();
const Implementation<CompressedAttention>& cuda_compressed_attention();
const Implementation<CompressedAttention>& reference_compressed_attention();

template <>
std::span<const Implementation<CompressedAttention>* const> implementations<CompressedAttention>() {
  static const Implementation<CompressedAttention>* const list[] = {
      &cpu_compressed_attention(), &cuda_compressed_attention(), &reference_compressed_attention()};
  return list;
}

}  // namespace moe4
