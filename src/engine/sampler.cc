// Choice of the next token.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"

namespace moe4 {
namespace {

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

void check_not_nan(std::span<const float> logits) {
  bool nan = false;
  for (const float logit : logits) nan |= std::isnan(logit);
  if (!nan) return;
  const auto at = std::find_if(logits.begin(), logits.end(), [](float x) { return std::isnan(x); });
  throw Error(ErrorCode::kBadInput,
              "logit " + std::to_string(at - logits.begin()) +
                  " is not a number: weights of the checkpoint are broken or overflow");
}

// The first of the largest logits; a loop without a dependence from one element to the next.
int32_t largest(std::span<const float> logits) {
  constexpr size_t kLanes = 16;
  float most[kLanes];
  std::fill_n(most, kLanes, logits[0]);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) most[j] = logits[i + j] > most[j] ? logits[i + j] : most[j];
  }
  for (; i < logits.size(); ++i) most[0] = std::max(most[0], logits[i]);
  const float max = *std::max_element(most, most + kLanes);
  return static_cast<int32_t>(std::find(logits.begin(), logits.end(), max) - logits.begin());
}

template <typename Candidate>
double weight(const Candidate& c, float max_logit) {
  return std::exp(static_cast<double>(c.logit) - max_logit);
}

}  // namespace

// Larger logits first; among equals the lower id.
bool Sampler::before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

void Sampler::penalize_repetition(std::span<const int32_t> history, float penalty) {
  if (penalty == 1.0f) return;
  seen_.assign(candidates_.size(), false);
  for (const int32_t id : history) {
    if (id < 0 || id >= static_cast<int32_t>(candidates_.size()) || seen_[id]) continue;
    seen_[id] = true;
    float& logit = candidates_[id].logit;
    logit = logit < 0 ? logit * penalty : logit / penalty;
  }
}

// Keeps the k best and everything that equals the k-th.
void Sampler::keep_top_k(int64_t k) {
  if (k <= 0 || k >= static_cast<int64_t>(candidates_.size())) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + (k - 1), candidates_.end(), before);
  const float threshold = candidates_[k - 1].logit;
  std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < threshold; });
}

// Keeps candidates, best first, while those before them have less than top_p of the probability.
void Sampler::keep_top_p(float top_p, float max_logit) {
  if (top_p >= 1.0f) return;
  double total = 0;
  for (const Candidate& c : candidates_) total += weight(c, max_logit);
  // Sorting a vocabulary is slow and the mass sits in a few tokens: sort a growing head.
  double mass = 0;
  size_t sorted = 0, kept = 0;
  for (size_t head = 256; kept == sorted && sorted < candidates_.size(); head *= 8) {
    const size_t end = std::min(head, candidates_.size());
    std::partial_sort(candidates_.begin() + static_cast<std::ptrdiff_t>(sorted),
                      candidates_.begin() + static_cast<std::ptrdiff_t>(end), candidates_.end(),
                      before);
    sorted = end;
    while (kept < sorted && (kept == 0 || mass < top_p * total)) {
      mass += weight(candidates_[kept++], max_logit);
    }
  }
  candidates_.resize(kept);
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> history,
                        const SamplingParams& params, std::mt19937_64& rng) {
  check(params);
  check_not_nan(logits);
  MOE4_CHECK(!logits.empty());
  if (params.temperature == 0.0f && params.repetition_penalty == 1.0f) return largest(logits);
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) candidates_[i] = {logits[i], static_cast<int32_t>(i)};
  penalize_repetition(history, params.repetition_penalty);
  const Candidate best = *std::min_element(candidates_.begin(), candidates_.end(), before);
  if (params.temperature == 0.0f) return best.id;

  for (Candidate& c : candidates_) c.logit /= params.temperature;
  const float max_logit = best.logit / params.temperature;
  keep_top_k(params.top_k);
  keep_top_p(params.top_p, max_logit);
  if (params.min_p > 0) {
    std::erase_if(candidates_,
                  [&](const Candidate& c) { return weight(c, max_logit) < params.min_p; });
  }

  double total = 0;
  for (const Candidate& c : candidates_) total += weight(c, max_logit);
  // 53 random bits: the same number on every platform, unlike the standard distributions.
  double rest = static_cast<double>(rng() >> 11) * 0x1p-53 * total;
  for (const Candidate& c : candidates_) {
    rest -= weight(c, max_logit);
    if (rest < 0) return c.id;
  }
  return best.id;  // rounding left nothing
}

}  // namespace moe4
