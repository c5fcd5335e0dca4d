// Embed: what calls must keep to, and who implements it.
#include "ops/embed/embed.h"

namespace moe4 {

void Embed::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(args.y.width == problem.width);
}

const Implementation<Embed>& cpu_embed_table();
const Implementation<Embed>& cpu_embed_tied();
const Implementation<Embed>& cuda_embed();
const Implementation<Embed>& reference_embed();

template <>
std::span<const Implementation<Embed>* const> implementations<Embed>() {
  static const Implementation<Embed>* const list[] = {&cpu_embed_table(), &cpu_embed_tied(),
                                                      &cuda_embed(), &reference_embed()};
  return list;
}

}  // namespace moe4
