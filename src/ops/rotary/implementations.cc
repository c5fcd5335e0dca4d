// RotaryAngles: what calls must keep to, and who implements it.
#include <cmath>

#include "ops/rotary/rotary_angles.h"

namespace moe4 {

std::vector<float> inverse_frequencies(const RotarySpec& spec) {
  std::vector<float> frequencies(spec.dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(spec.dim);
    frequencies[i] = 1.0f / static_cast<float>(std::pow(spec.theta, static_cast<double>(exponent)));
  }
  return frequencies;
}

void RotaryAngles::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(problem.dim % 2 == 0 && args.y.width == problem.dim);
}

const Implementation<RotaryAngles>& cpu_rotary_angles();
const Implementation<RotaryAngles>& reference_rotary_angles();

template <>
std::span<const Implementation<RotaryAngles>* const> implementations<RotaryAngles>() {
  static const Implementation<RotaryAngles>* const list[] = {&cpu_rotary_angles(),
                                                             &reference_rotary_angles()};
  return list;
}

}  // namespace moe4
