// How far two vectors are apart.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>

namespace moe4::testing {

/// Relative Frobenius error ||a - b|| / ||b||; infinity when the sizes differ or a value is NaN.
inline double relative_error(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  if (difference == 0) return 0;
  const double error = std::sqrt(difference / norm);
  return std::isnan(error) ? INFINITY : error;
}

}  // namespace moe4::testing
