// Routers: from a token's logits to its top-k experts and their weights.
#pragma once

#include <cstdint>
#include <span>

namespace moe4 {

enum class ScoringFunction {
  kSoftmax,              ///< softmax over all experts, then top-k (Qwen, Mixtral)
  kSigmoid,              ///< sigmoid of each, then top-k (DeepSeek-V3, GLM, MiniMax, Nemotron-H)
  kSoftmaxOverSelected,  ///< top-k of the raw logits, then softmax over the chosen (gpt-oss)
  kSqrtSoftplus,         ///< sqrt(ln(1 + e^logit)) of each, then as kSigmoid (DeepSeek-V4)
};

struct RouterConfig {
  ScoringFunction scoring = ScoringFunction::kSoftmax;
  int64_t num_experts = 0;
  int64_t top_k = 0;
  bool renormalize = true;      ///< norm_topk_prob: divide the chosen weights by their sum
  float scaling_factor = 1.0f;  ///< routed_scaling_factor, applied once, last
  int64_t num_groups = 1;   ///< n_group; a group's score is the sum of its two best biased scores
  int64_t topk_groups = 1;  ///< topk_group: groups that stay in the race
  /// e_score_correction_bias [num_experts] or empty: added for the selection only, weights come
  /// from unbiased scores.
  std::span<const float> correction_bias;
  /// [num_experts] or empty: multiplies an expert's weight, last (Gemma-4's per_expert_scale).
  std::span<const float> expert_scale;
  /// A token's experts are given by its id (DeepSeek-V4's hash layers): logits are only weights.
  bool by_token = false;
  /// Experts that every token takes besides, with ids from num_experts on, in the last slots. Their
  /// weight is 1, or the sigmoid of one more logit.
  int64_t shared_experts = 0;
  bool shared_gate = false;

  /// Ids and weights of a token.
  int64_t num_slots() const { return top_k + shared_experts; }
  int64_t num_logits() const { return num_experts + (shared_gate ? 1 : 0); }
};

/// logits [T, num_logits()] float32 -> topk_ids and topk_weights [T, num_slots()]: the chosen in
/// order of falling score, ties to the lowest id, then the shared experts. A token with a NaN logit
/// gets expert 0 with a weight of NaN, and no other: broken weights must not pass for a token that
/// needs no expert. Slots without an expert have an id of -1 and a weight of 0. Allocation-free for
/// E <= 4096.
void route_topk(const RouterConfig& config, const float* logits, int64_t num_tokens,
                int32_t* topk_ids, float* topk_weights);

/// The same of one token whose experts are given: `chosen` [top_k], all of them experts, in their
/// order.
void weigh_chosen(const RouterConfig& config, const float* logits, const int32_t* chosen,
                  int32_t* topk_ids, float* topk_weights);

}  // namespace moe4
