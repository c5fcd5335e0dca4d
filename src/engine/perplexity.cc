// Perplexity of rows of token ids.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "engine/evaluator.h"
#include "engine/finite.h"
#include "engine/generator.h"

namespace moe4 {
namespace {

double log_probability(std::span<const float> logits, int32_t token) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - top);
  return logits[token] - top - std::log(sum);
}

}  // namespace

double perplexity_from(double log_likelihood, int64_t predictions) {
  const double mean = log_likelihood / static_cast<double>(predictions);
  const double result = std::exp(-mean);
  if (!std::isfinite(result)) {
    throw_bad_input({.what = "the perplexity is not finite",
                     .expected = "a mean log likelihood above -709",
                     .found = std::to_string(mean),
                     .hint = "weights of the checkpoint are broken, or values overflow"});
  }
  return result;
}

PerplexityResult perplexity(const Model& model, const std::vector<std::vector<int32_t>>& rows,
                            int64_t chunk, const std::function<void(int64_t, int64_t)>& progress) {
  const auto start = std::chrono::steady_clock::now();
  const int64_t vocab = model.config().vocab_size;
  int64_t total = 0, done = 0, longest = 1;
  for (const auto& row : rows) {
    total += static_cast<int64_t>(row.size());
    longest = std::max(longest, static_cast<int64_t>(row.size()));
  }
  Evaluator evaluator(model, longest, chunk);

  PerplexityResult result;
  double sum = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const std::vector<int32_t>& row = rows[r];
    const auto size = static_cast<int64_t>(row.size());
    const auto score = [&](int64_t first, std::span<const float> logits) {
      require_finite_logits(model, row, logits, first, "row " + std::to_string(r));
      const auto n = static_cast<int64_t>(logits.size()) / vocab;
      for (int64_t t = 0; t < n; ++t) {
        const int32_t next = row[first + t + 1];
        if (next < 0 || next >= vocab) {
          throw_bad_input({.what = "token id outside the vocabulary",
                           .expected = "0 to " + std::to_string(vocab - 1),
                           .found = std::to_string(next)});
        }
        sum += log_probability(logits.subspan(t * vocab, vocab), next);
      }
      if (progress) progress(done + first + n, total);
    };
    if (size >= 2) {
      evaluator.run(std::span(row).first(size - 1), score);  // the last token predicts nothing
      result.predictions += size - 1;
    }
    done += size;
    if (progress) progress(done, total);
  }
  if (result.predictions == 0) {
    throw_bad_input({.what = "nothing to score", .expected = "a row of at least two tokens"});
  }
  result.mean_log_likelihood = sum / static_cast<double>(result.predictions);
  result.perplexity = perplexity_from(sum, result.predictions);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace moe4
