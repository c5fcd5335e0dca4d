// Choice of the next token.
#include "engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace moe4 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

void check(const SamplingParams& p) {
  const auto require = [](bool good, const char* what, double value, const char* expected) {
    if (good) return;
    throw Error(ErrorCode::kUsage, fmt::format("{} is {}: expected {}", what, value, expected));
  };
  require(p.temperature >= 0 && p.temperature < kInfinity, "temperature", p.temperature,
          "a number from 0 (greedy) up");
  require(p.top_k >= 0, "top_k", static_cast<double>(p.top_k), "0 (off) or a positive number");
  require(p.top_p >= 0 && p.top_p <= 1, "top_p", p.top_p, "0 to 1 (off)");
  require(p.min_p >= 0 && p.min_p <= 1, "min_p", p.min_p, "0 (off) to 1");
  require(p.repetition_penalty > 0 && p.repetition_penalty < kInfinity, "repetition_penalty",
          p.repetition_penalty, "a positive number, 1 is off");
  require(std::abs(p.presence_penalty) < kInfinity, "presence_penalty", p.presence_penalty,
          "a number, 0 is off");
  require(std::abs(p.frequency_penalty) < kInfinity, "frequency_penalty", p.frequency_penalty,
          "a number, 0 is off");
}

void check_logits(std::span<const float> logits) {
  bool bad = false;
  for (const float logit : logits) bad |= !(logit <= kLargest);
  if (!bad) return;
  const auto at =
      std::find_if(logits.begin(), logits.end(), [](float x) { return !(x <= kLargest); });
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("logit {} is {}: weights of the checkpoint are broken, or values overflow",
                  at - logits.begin(), *at));
}

[[noreturn]] void nothing_left() {
  throw Error(ErrorCode::kUsage,
              "every token is ruled out: no logit above -inf is left to choose from");
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
  if (max == -kInfinity) nothing_left();
  return static_cast<int32_t>(std::find(logits.begin(), logits.end(), max) - logits.begin());
}

}  // namespace

void check_sampling_params(const SamplingParams& params, int64_t vocab_size) {
  check(params);
  for (const LogitBias& entry : params.logit_bias) {
    if (entry.id < 0 || entry.id >= vocab_size) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("logit_bias names token {}: expected 0 to {}, the model's vocabulary",
                              entry.id, vocab_size - 1));
    }
    if (!std::isfinite(entry.bias)) {
      throw Error(ErrorCode::kUsage, fmt::format("logit_bias of token {} is {}: expected a number",
                                                 entry.id, entry.bias));
    }
  }
}

int32_t draw(std::span<const TokenProbability> distribution, double u) {
  MOE4_CHECK(!distribution.empty());
  for (const TokenProbability& entry : distribution) {
    u -= entry.probability;
    if (u < 0) return entry.id;
  }
  // Rounding left nothing: the likeliest.
  return std::max_element(
             distribution.begin(), distribution.end(),
             [](const auto& a, const auto& b) { return a.probability < b.probability; })
      ->id;
}

// Larger logits first; among equals the lower id.
bool Sampler::before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// Not normalised; in double, where no temperature makes a difference of logits overflow.
double Sampler::weight(const Candidate& c) const {
  return std::exp((static_cast<double>(c.logit) - max_logit_) / temperature_);
}

// candidates_[i] is token i still.
void Sampler::penalize(const SamplingHistory& history, const SamplingParams& params) {
  if (!history.allowed.empty()) {
    for (Candidate& c : candidates_) {
      const auto id = static_cast<size_t>(c.id);
      const uint64_t word = id / 64 < history.allowed.size() ? history.allowed[id / 64] : 0;
      if ((word >> (id % 64) & 1) == 0) c.logit = -kInfinity;
    }
  }
  for (const int32_t id : history.forbidden) {
    if (id >= 0 && id < static_cast<int32_t>(candidates_.size()))
      candidates_[id].logit = -kInfinity;
  }
  // What is large stays a number: infinities would make NaNs of the probabilities.
  for (const LogitBias& entry : params.logit_bias) {
    float& logit = candidates_[entry.id].logit;
    logit = std::min(logit + entry.bias, kLargest);
  }
  if (params.repetition_penalty == 1.0f && params.presence_penalty == 0.0f &&
      params.frequency_penalty == 0.0f)
    return;
  uses_.resize(candidates_.size());
  touched_.reserve(candidates_.size());
  for (size_t i = 0; i < history.tokens.size(); ++i) {
    const int32_t id = history.tokens[i];
    if (id < 0 || id >= static_cast<int32_t>(candidates_.size())) continue;
    if (uses_[id] == 0) {
      touched_.push_back(id);
      uses_[id] = 1;
    }
    if (i >= history.prompt_tokens) ++uses_[id];
  }
  for (const int32_t id : touched_) {
    float& logit = candidates_[id].logit;
    logit = logit < 0 ? logit * params.repetition_penalty : logit / params.repetition_penalty;
    logit = std::min(logit, kLargest);
    if (const int32_t generated = uses_[id] - 1; generated > 0) {
      logit -= params.frequency_penalty * static_cast<float>(generated);
      logit -= params.presence_penalty;
    }
    logit = std::min(logit, kLargest);  // negative penalties add
    uses_[id] = 0;
  }
  touched_.clear();
}

// Keeps the k best and everything that equals the k-th.
void Sampler::keep_top_k(int64_t k) {
  if (k <= 0 || k >= static_cast<int64_t>(candidates_.size())) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + (k - 1), candidates_.end(), before);
  const float threshold = candidates_[k - 1].logit;
  std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < threshold; });
}

// Keeps candidates, best first, while those before them have less than top_p of the probability.
void Sampler::keep_top_p(double top_p) {
  if (top_p >= 1.0) return;
  double total = 0;
  for (const Candidate& c : candidates_) total += weight(c);
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
      mass += weight(candidates_[kept++]);
    }
  }
  candidates_.resize(kept);
}

std::span<const TokenProbability> Sampler::distribution(std::span<const float> logits,
                                                        const SamplingHistory& history,
                                                        const SamplingParams& params) {
  MOE4_CHECK(!logits.empty());
  check(params);
  check_logits(logits);
  const bool edited = params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
                      params.frequency_penalty != 0.0f || !params.logit_bias.empty() ||
                      !history.forbidden.empty() || !history.allowed.empty();
  if (params.temperature == 0.0f && !edited) {
    distribution_.assign(1, {largest(logits), 1.0});
    return distribution_;
  }
  check_sampling_params(params, static_cast<int64_t>(logits.size()));
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) candidates_[i] = {logits[i], static_cast<int32_t>(i)};
  if (edited) penalize(history, params);
  const Candidate best = *std::min_element(candidates_.begin(), candidates_.end(), before);
  if (best.logit == -kInfinity) nothing_left();
  if (params.temperature == 0.0f) {
    distribution_.assign(1, {best.id, 1.0});
    return distribution_;
  }

  temperature_ = params.temperature;
  max_logit_ = best.logit;
  std::erase_if(candidates_, [](const Candidate& c) { return c.logit == -kInfinity; });
  if (params.min_p > 0) {
    const double least = params.min_p;
    std::erase_if(candidates_, [&](const Candidate& c) { return weight(c) < least; });
  }
  keep_top_k(params.top_k);
  keep_top_p(params.top_p);
  // Selection leaves an order that is the library's business; draws go by id.
  const auto by_id = [](const Candidate& a, const Candidate& b) { return a.id < b.id; };
  if (!std::is_sorted(candidates_.begin(), candidates_.end(), by_id))
    std::sort(candidates_.begin(), candidates_.end(), by_id);
  double total = 0;
  distribution_.clear();
  distribution_.reserve(logits.size());
  for (const Candidate& c : candidates_) {
    const double w = weight(c);
    if (w == 0) continue;  // so unlikely that it underflows
    distribution_.push_back({c.id, w});
    total += w;
  }
  for (TokenProbability& entry : distribution_) entry.probability /= total;
  return distribution_;
}

int32_t Sampler::sample(std::span<const float> logits, const SamplingHistory& history,
                        const SamplingParams& params, std::mt19937_64& rng) {
  const auto left = distribution(logits, history, params);
  if (params.temperature == 0.0f) return left.front().id;
  // 53 random bits: the same number on every platform, unlike the standard distributions.
  return draw(left, static_cast<double>(rng() >> 11) * 0x1p-53);
}

}  // namespace moe4
