// ChooseBlocks: what calls must keep to, and who implements it.
#include "ops/choose_blocks/choose_blocks.h"

namespace moe4 {

void ChooseBlocks::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(problem.block_size > 0 && problem.most > 0);
  MOE4_CHECK(problem.local >= 0 && problem.local <= problem.most);
  MOE4_CHECK(args.q.rows == args.batch->num_tokens &&
             args.q.width == problem.num_heads * problem.dim);
  MOE4_CHECK(args.cache.unit_bytes >= cache_unit_bytes(problem.cache()));
}

const Implementation<ChooseBlocks>& cpu_choose_blocks();
const Implementation<ChooseBlocks>& cuda_choose_blocks();
const Implementation<ChooseBlocks>& reference_choose_blocks();

template <>
std::span<const Implementation<ChooseBlocks>* const> implementations<ChooseBlocks>() {
  static const Implementation<ChooseBlocks>* const list[] = {
      &cpu_choose_blocks(), &cuda_choose_blocks(), &reference_choose_blocks()};
  return list;
}

}  // namespace moe4
