// Choice of the next token.
#include "engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "ops/sample/sample_arithmetic.h"

namespace moe4 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

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
  const int64_t bad = find_bad_logit(logits);
  if (bad < 0) return;
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("logit {} is {}: weights of the checkpoint are broken, or values overflow", bad,
                  logits[bad]));
}

[[noreturn]] void nothing_left() {
  throw Error(ErrorCode::kUsage,
              "every token is ruled out: no logit above -inf is left to choose from");
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

SampleRow sample_row(const SamplingParams& params) {
  return {.scale = sample_scale(params.temperature),
          .least = sample_least(params.min_p),
          .top_k = static_cast<int32_t>(
              std::min<int64_t>(params.top_k, std::numeric_limits<int32_t>::max())),
          .top_p = params.top_p,
          .repetition_penalty = params.repetition_penalty,
          .presence_penalty = params.presence_penalty,
          .frequency_penalty = params.frequency_penalty};
}

void Sampler::edit(const SamplingHistory& history, const SamplingParams& params) {
  const auto vocab = static_cast<int64_t>(edited_.size());
  if (!history.allowed.empty()) {
    for (size_t id = 0; id < edited_.size(); ++id) {
      const uint64_t word = id / 64 < history.allowed.size() ? history.allowed[id / 64] : 0;
      if ((word >> (id % 64) & 1) == 0) edited_[id] = -kInfinity;
    }
  }
  for (const int32_t id : history.forbidden) {
    if (id >= 0 && id < vocab) edited_[id] = -kInfinity;
  }
  for (const LogitBias& entry : params.logit_bias) {
    edited_[entry.id] = biased_logit(edited_[entry.id], entry.bias);
  }
  if (params.repetition_penalty == 1.0f && params.presence_penalty == 0.0f &&
      params.frequency_penalty == 0.0f)
    return;
  uses_.resize(edited_.size());
  touched_.reserve(edited_.size());
  for (size_t i = 0; i < history.tokens.size(); ++i) {
    const int32_t id = history.tokens[i];
    if (id < 0 || id >= vocab) continue;
    if (uses_[id] == 0) {
      touched_.push_back(id);
      uses_[id] = 1;
    }
    if (i >= history.prompt_tokens) ++uses_[id];
  }
  const SampleRow row = sample_row(params);
  for (const int32_t id : touched_) {
    edited_[id] = penalized_logit(edited_[id], row, uses_[id]);
    uses_[id] = 0;
  }
  touched_.clear();
}

std::span<const SampleCandidate> Sampler::candidates(std::span<const float> logits,
                                                     const SamplingHistory& history,
                                                     const SamplingParams& params) {
  MOE4_CHECK(!logits.empty());
  check(params);
  check_logits(logits);
  const bool is_edited = params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
                         params.frequency_penalty != 0.0f || !params.logit_bias.empty() ||
                         !history.forbidden.empty() || !history.allowed.empty();
  if (is_edited) {
    check_sampling_params(params, static_cast<int64_t>(logits.size()));
    edited_.assign(logits.begin(), logits.end());
    edit(history, params);
    logits = edited_;
  }
  candidates_.resize(params.temperature > 0 ? std::max(logits.size(), candidates_.size()) : 1);
  const auto left = sample_candidates(logits, sample_row(params), candidates_);
  if (left.empty()) nothing_left();
  return left;
}

std::span<const TokenProbability> Sampler::distribution(std::span<const float> logits,
                                                        const SamplingHistory& history,
                                                        const SamplingParams& params) {
  const auto left = candidates(logits, history, params);
  uint64_t total = 0;
  for (const SampleCandidate& c : left) total += c.weight;
  distribution_.clear();
  distribution_.reserve(logits.size());
  for (const SampleCandidate& c : left) {
    distribution_.push_back({c.id, static_cast<double>(c.weight) / static_cast<double>(total)});
  }
  return distribution_;
}

int32_t Sampler::sample(std::span<const float> logits, const SamplingHistory& history,
                        const SamplingParams& params, std::mt19937_64& rng) {
  const auto left = candidates(logits, history, params);
  return params.temperature == 0.0f ? left.front().id : draw(left, rng());
}

}  // namespace moe4
