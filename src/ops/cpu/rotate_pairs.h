// Rotary embedding of one head: of neighbouring pairs, or of both halves.
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

/// Turns elements i and i + dim / 2 of x by angle i, in place.
inline void rotate_halves(const float* angles, int64_t dim, float* x) {
  const int64_t half = dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float cos = angles[i], sin = angles[half + i];
    const float a = x[i], b = x[i + half];
    x[i] = a * cos - b * sin;
    x[i + half] = b * cos + a * sin;
  }
}

inline void rotate(bool pairs, const float* angles, int64_t dim, float* x) {
  if (pairs) {
    rotate_pairs(angles, dim, x);
  } else {
    rotate_halves(angles, dim, x);
  }
}

}  // namespace moe4
