// BlockAttention: what calls must keep to, and who implements it.
#include "ops/block_attention/block_attention.h"

namespace moe4 {

void BlockAttention::check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.batch->num_tokens, width = problem.num_heads * problem.head_dim;
  MOE4_CHECK(problem.num_heads % problem.num_kv_heads == 0);
  MOE4_CHECK(problem.block_size > 0 && problem.num_chosen > 0);
  MOE4_CHECK(args.queries.rows == tokens && args.queries.width == width);
  MOE4_CHECK(args.y.rows == tokens && args.y.width == width);
  MOE4_CHECK(args.cache.unit_bytes >= cache_unit_bytes(problem.cache()));
}

const Implementation<BlockAttention>& cpu_block_attention();
const Implementation<BlockAttention>& cuda_block_attention();
const Implementation<BlockAttention>& reference_block_attention();

template <>
std::span<const Implementation<BlockAttention>* const> implementations<BlockAttention>() {
  static const Implementation<BlockAttention>* const list[] = {
      &cpu_block_attention(), &cuda_block_attention(), &reference_block_attention()};
  return list;
}

}  // namespace moe4
