// How far one model's numbers are from another's.
#pragma once

#include <cstdint>
#include <span>

namespace moe4::cli {

/// ||a - b|| / ||b|| over all elements (Frobenius).
double relative_error(std::span<const float> a, std::span<const float> b);

/// Sums over the positions of one row of tokens.
struct LogitsComparison {
  double log_likelihood = 0;  ///< of the next tokens under `logits`
  double kl = 0;              ///< sum of KL(base || logits)
  int64_t same_argmax = 0;
  int64_t positions = 0;
};

/// logits, base [T, V] of the same T tokens; the last position has no next token and is left out.
/// `base` may be empty: then kl and same_argmax stay 0.
LogitsComparison compare_logits(std::span<const float> logits, std::span<const float> base,
                                std::span<const int32_t> tokens, int64_t vocab_size);

}  // namespace moe4::cli
