// Choice of the next token from logits.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "ops/sample/cpu/sample_row.h"

namespace moe4 {

struct SamplingParams {
  float temperature = 0.0f;  ///< 0: greedy
  int64_t top_k = 0;         ///< 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;  ///< of tokens in the prompt or generated
  float presence_penalty = 0.0f;    ///< off the logit of every generated token, once
  float frequency_penalty = 0.0f;   ///< off it for every time that it was generated
  std::vector<LogitBias> logit_bias;
  uint64_t seed = 0;
};

/// Throws Error(kUsage) naming the parameter that is out of range; `vocab_size` bounds the ids of
/// logit_bias.
void check_sampling_params(const SamplingParams& params, int64_t vocab_size);

/// The sequence so far. Spans are of the caller.
struct SamplingHistory {
  std::span<const int32_t> tokens;     ///< prompt, then what was generated
  size_t prompt_tokens = 0;            ///< how many of them are the prompt
  std::span<const int32_t> forbidden;  ///< never chosen: stop tokens that may not come yet
  /// Bit `id`: whether the token may be chosen, as a grammar has it. Empty: all may. Tokens past
  /// its end may not.
  std::span<const uint64_t> allowed;
};

struct TokenProbability {
  int32_t id = 0;
  double probability = 0;
};

/// Keeps its working memory: after the first call with a vocabulary it allocates nothing.
class Sampler {
 public:
  /// Picks the next token from logits [V] as ops/sample/sample.h defines it, with the next number
  /// of `rng`. Greedy ties go to the lowest id. A logit of -inf is a token that is never chosen.
  /// Deterministic for a given rng state; a greedy choice leaves the rng as it is. Throws
  /// Error(kBadInput) for a NaN or +inf logit and Error(kUsage) for parameters out of range or when
  /// every token is ruled out.
  int32_t sample(std::span<const float> logits, const SamplingHistory& history,
                 const SamplingParams& params, std::mt19937_64& rng);

  /// What sample() draws from: the tokens left, ascending by id, their probabilities adding up to
  /// 1. A greedy choice is one token. Valid until the next call.
  std::span<const TokenProbability> distribution(std::span<const float> logits,
                                                 const SamplingHistory& history,
                                                 const SamplingParams& params);

 private:
  std::span<const SampleCandidate> candidates(std::span<const float> logits,
                                              const SamplingHistory& history,
                                              const SamplingParams& params);
  void edit(const SamplingHistory& history, const SamplingParams& params);

  std::vector<float> edited_;  // [V]
  std::vector<SampleCandidate> candidates_;
  std::vector<int32_t> uses_;     // [V]: 0, or 1 + times generated; all 0 between calls
  std::vector<int32_t> touched_;  // ids with uses_ > 0
  std::vector<TokenProbability> distribution_;
};

/// What `params` say of a row but for its edits' lists and its random number.
SampleRow sample_row(const SamplingParams& params);

}  // namespace moe4
