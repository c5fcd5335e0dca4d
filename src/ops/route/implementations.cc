// Route: what calls must keep to, and who implements it.
#include "ops/route/route.h"

namespace moe4 {

void Route::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(args.logits.width == problem.num_logits());
}

const Implementation<Route>& cpu_route();
const Implementation<Route>& cuda_route();
const Implementation<Route>& reference_route();

template <>
std::span<const Implementation<Route>* const> implementations<Route>() {
  static const Implementation<Route>* const list[] = {&cpu_route(), &cuda_route(),
                                                      &reference_route()};
  return list;
}

}  // namespace moe4
