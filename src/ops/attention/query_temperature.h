// Attention that sharpens with the position (Llama-4, Mistral-4).
#pragma once

#include <cmath>
#include <cstdint>

namespace moe4 {

/// Scores of the token at position p are multiplied by 1 + beta ln(1 + floor((p + offset) / span)),
/// which is 1 in the first `span` positions.
struct QueryTemperature {
  double beta = 0;     ///< 0: no position differs
  int64_t span = 1;    ///< positive
  int64_t offset = 0;  ///< Mistral-4 0, Llama-4 1

  bool is_one() const { return beta == 0; }
  double at(int64_t position) const {
    const int64_t steps = (position + offset) / span;
    return 1.0 + beta * std::log1p(static_cast<double>(steps));
  }
};

}  // namespace moe4
