// Perplexity of rows of token ids.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "engine/finite.h"
#include "engine/generator.h"
#include "engine/sequence.h"

namespace moe4 {
namespace {

// Logits of a chunk are held at once; large vocabularies get shorter chunks.
constexpr int64_t kMaxLogitBytes = int64_t{128} << 20;

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
  chunk =
      std::clamp<int64_t>(chunk, 1, std::max<int64_t>(1, kMaxLogitBytes / (vocab * int64_t{4})));
  int64_t total = 0, done = 0, longest = 1;
  for (const auto& row : rows) {
    total += static_cast<int64_t>(row.size());
    longest = std::max(longest, static_cast<int64_t>(row.size()));
  }
  Sequence sequence(model, longest);

  PerplexityResult result;
  double sum = 0;
  std::vector<float> logits;
  for (size_t r = 0; r < rows.size(); ++r) {
    const std::vector<int32_t>& row = rows[r];
    const auto size = static_cast<int64_t>(row.size());
    if (size >= 2) {
      sequence.clear();
      for (int64_t begin = 0; begin < size - 1; begin += chunk) {
        const int64_t n = std::min(chunk, size - 1 - begin);  // the last token predicts nothing
        sequence.forward(std::span(row).subspan(begin, n), LogitsFor::kAllTokens, logits);
        require_finite_logits(model, row, logits, begin, "row " + std::to_string(r));
        for (int64_t t = 0; t < n; ++t) {
          const int32_t next = row[begin + t + 1];
          if (next < 0 || next >= vocab) {
            throw_bad_input({.what = "token id outside the vocabulary",
                             .expected = "0 to " + std::to_string(vocab - 1),
                             .found = std::to_string(next)});
          }
          sum += log_probability(std::span(logits).subspan(t * vocab, vocab), next);
        }
        if (progress) progress(done + begin + n, total);
      }
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
