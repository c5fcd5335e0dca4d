// Rotation of head halves.
#include "layers/rotary.h"

#include <cmath>

namespace moe4 {

Rotary::Rotary(int64_t rotary_dim, double theta) : inverse_frequency_(rotary_dim / 2) {
  for (size_t i = 0; i < inverse_frequency_.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rotary_dim);
    inverse_frequency_[i] =
        1.0f / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
  }
}

void Rotary::angles(int64_t position, float* cos, float* sin) const {
  for (size_t i = 0; i < inverse_frequency_.size(); ++i) {
    // The angle is a float32 product in the reference: far along, its rounding matters.
    const float angle = static_cast<float>(position) * inverse_frequency_[i];
    cos[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    sin[i] = static_cast<float>(std::sin(static_cast<double>(angle)));
  }
}

void Rotary::apply(const float* cos, const float* sin, float* head) const {
  const int64_t n = half();
  for (int64_t i = 0; i < n; ++i) {
    const float a = head[i], b = head[i + n];
    head[i] = a * cos[i] - b * sin[i];
    head[i + n] = b * cos[i] + a * sin[i];
  }
}

}  // namespace moe4
