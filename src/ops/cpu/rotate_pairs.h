// Rotary embedding of neighbouring pairs.
#pragma once

#include <cstdint>

namespace moe4 {

/// Turns elements 2i and 2i + 1 of x by angle i, in place; `angles` [cos (dim / 2) | sin], see
/// RotaryAngles.
inline void rotate_pairs(const float* angles, int64_t dim, float* x) {
  const int64_t half = dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float cos = angles[i], sin = angles[half + i];
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cos - b * sin;
    x[2 * i + 1] = b * cos + a * sin;
  }
}

}  // namespace moe4
