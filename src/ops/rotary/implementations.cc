// RotaryAngles: what calls must keep to, and who implements it.
#include "ops/rotary/rotary_angles.h"

namespace moe4 {

void RotaryAngles::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(problem.dim % 2 == 0 && args.y.width == problem.dim);
}

const Implementation<RotaryAngles>& cpu_rotary_angles();
const Implementation<RotaryAngles>& cuda_rotary_angles();
const Implementation<RotaryAngles>& reference_rotary_angles();

template <>
std::span<const Implementation<RotaryAngles>* const> implementations<RotaryAngles>() {
  static const Implementation<RotaryAngles>* const list[] = {
      &cpu_rotary_angles(), &cuda_rotary_angles(), &reference_rotary_angles()};
  return list;
}

}  // namespace moe4
