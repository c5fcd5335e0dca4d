// Choice of the next token.
#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_set>

#include "base/error.h"
#include "engine/generator.h"

namespace moe4 {
namespace {

struct ScoredToken {
  float logit;
  int32_t id;
};

// Larger logits first; among equals the lower id.
bool before(const ScoredToken& a, const ScoredToken& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

void check(const SamplingParams& p) {
  const auto refuse = [](const char* what, double value, const char* expected) {
    throw Error(ErrorCode::kUsage,
                std::string(what) + " is " + std::to_string(value) + ": expected " + expected);
  };
  if (!(p.temperature >= 0) || std::isinf(p.temperature)) {
    refuse("temperature", p.temperature, "a number from 0 (greedy) up");
  }
  if (p.top_k < 0) refuse("top_k", static_cast<double>(p.top_k), "0 (off) or a positive number");
  if (!(p.top_p > 0 && p.top_p <= 1)) refuse("top_p", p.top_p, "above 0, at most 1");
  if (!(p.min_p >= 0 && p.min_p <= 1)) refuse("min_p", p.min_p, "0 (off) to 1");
  if (!(p.repetition_penalty > 0)) {
    refuse("repetition_penalty", p.repetition_penalty, "a positive number, 1 is off");
  }
}

void penalize_repetition(std::vector<ScoredToken>& candidates, std::span<const int32_t> history,
                         float penalty) {
  if (penalty == 1.0f) return;
  const std::unordered_set<int32_t> seen(history.begin(), history.end());
  for (int32_t id : seen) {
    if (id < 0 || id >= static_cast<int32_t>(candidates.size())) continue;
    float& logit = candidates[id].logit;
    logit = logit < 0 ? logit * penalty : logit / penalty;
  }
}

// Keeps the k best and everything that equals the k-th.
void keep_top_k(std::vector<ScoredToken>& candidates, int64_t k) {
  if (k <= 0 || k >= static_cast<int64_t>(candidates.size())) return;
  std::nth_element(candidates.begin(), candidates.begin() + (k - 1), candidates.end(), before);
  const float threshold = candidates[k - 1].logit;
  std::erase_if(candidates, [&](const ScoredToken& c) { return c.logit < threshold; });
}

double weight(const ScoredToken& c, float max_logit) {
  return std::exp(static_cast<double>(c.logit) - max_logit);
}

// Keeps candidates, best first, while those before them have less than top_p of the probability.
void keep_top_p(std::vector<ScoredToken>& candidates, float top_p, float max_logit) {
  if (top_p >= 1.0f) return;
  double total = 0;
  for (const ScoredToken& c : candidates) total += weight(c, max_logit);
  // Sorting a vocabulary is slow and the mass sits in a few tokens: sort a growing head.
  double mass = 0;
  size_t sorted = 0, kept = 0;
  for (size_t head = 256; kept == sorted && sorted < candidates.size(); head *= 8) {
    const size_t end = std::min(head, candidates.size());
    std::partial_sort(candidates.begin() + static_cast<std::ptrdiff_t>(sorted),
                      candidates.begin() + static_cast<std::ptrdiff_t>(end), candidates.end(),
                      before);
    sorted = end;
    while (kept < sorted && (kept == 0 || mass < top_p * total)) {
      mass += weight(candidates[kept++], max_logit);
    }
  }
  candidates.resize(kept);
}

}  // namespace

int32_t sample(std::span<const float> logits, std::span<const int32_t> history,
               const SamplingParams& params, std::mt19937_64& rng) {
  check(params);
  std::vector<ScoredToken> candidates(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) {
      throw Error(ErrorCode::kBadInput,
                  "logit " + std::to_string(i) +
                      " is not a number: weights of the checkpoint are broken or overflow");
    }
    candidates[i] = {logits[i], static_cast<int32_t>(i)};
  }
  MOE4_CHECK(!candidates.empty());
  penalize_repetition(candidates, history, params.repetition_penalty);
  const ScoredToken best = *std::min_element(candidates.begin(), candidates.end(), before);
  if (params.temperature == 0.0f) return best.id;

  for (ScoredToken& c : candidates) c.logit /= params.temperature;
  const float max_logit = best.logit / params.temperature;
  keep_top_k(candidates, params.top_k);
  keep_top_p(candidates, params.top_p, max_logit);
  if (params.min_p > 0) {
    std::erase_if(candidates,
                  [&](const ScoredToken& c) { return weight(c, max_logit) < params.min_p; });
  }

  double total = 0;
  for (const ScoredToken& c : candidates) total += weight(c, max_logit);
  // 53 random bits: the same number on every platform, unlike the standard distributions.
  double rest = static_cast<double>(rng() >> 11) * 0x1p-53 * total;
  for (const ScoredToken& c : candidates) {
    rest -= weight(c, max_logit);
    if (rest < 0) return c.id;
  }
  return best.id;  // rounding left nothing
}

}  // namespace moe4
