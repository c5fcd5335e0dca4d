// Errors and divergences, in float64.
#include "cli/fidelity.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace moe4::cli {
namespace {

double log_sum_exp(const float* logits, int64_t n) {
  const double largest = *std::max_element(logits, logits + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(logits[i] - largest);
  return largest + std::log(sum);
}

}  // namespace

double relative_error(std::span<const float> a, std::span<const float> b) {
  MOE4_CHECK(a.size() == b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

LogitsComparison compare_logits(std::span<const float> logits, std::span<const float> base,
                                std::span<const int32_t> tokens, int64_t vocab_size) {
  LogitsComparison result;
  for (size_t t = 0; t + 1 < tokens.size(); ++t) {
    const float* row = logits.data() + t * vocab_size;
    const double row_sum = log_sum_exp(row, vocab_size);
    result.log_likelihood += row[tokens[t + 1]] - row_sum;
    ++result.positions;
    if (base.empty()) continue;
    const float* other = base.data() + t * vocab_size;
    const double other_sum = log_sum_exp(other, vocab_size);
    for (int64_t i = 0; i < vocab_size; ++i) {
      const double log_p = other[i] - other_sum;
      result.kl += std::exp(log_p) * (log_p - (row[i] - row_sum));
    }
    if (std::max_element(row, row + vocab_size) - row ==
        std::max_element(other, other + vocab_size) - other)
      ++result.same_argmax;
  }
  return result;
}

}  // namespace moe4::cli
