// Choice of the next token from logits.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace moe4 {

struct SamplingParams {
  float temperature = 0.0f;  ///< 0: greedy
  int64_t top_k = 0;         ///< 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  uint64_t seed = 0;
};

/// Keeps its working memory: after the first call with a vocabulary it allocates nothing.
class Sampler {
 public:
  /// Picks the next token from logits [V]; `history` is for the repetition penalty. Filters apply
  /// in the order of transformers: repetition penalty, temperature, top-k (ties with the k-th
  /// stay), top-p, min-p. Greedy ties go to the lowest id. Deterministic for a given rng state.
  /// Throws Error(kBadInput) for a NaN logit and Error(kUsage) for parameters out of range.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> history,
                 const SamplingParams& params, std::mt19937_64& rng);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };

  static bool before(const Candidate& a, const Candidate& b);
  void penalize_repetition(std::span<const int32_t> history, float penalty);
  void keep_top_k(int64_t k);
  void keep_top_p(float top_p, float max_logit);

  std::vector<Candidate> candidates_;
  std::vector<bool> seen_;
};

/// Sampler::sample() once.
inline int32_t sample(std::span<const float> logits, std::span<const int32_t> history,
                      const SamplingParams& params, std::mt19937_64& rng) {
  return Sampler().sample(logits, history, params, rng);
}

}  // namespace moe4
