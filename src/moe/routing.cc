// Router scoring and top-k selection, one token at a time.
#include "moe/routing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace moe4 {
namespace {

constexpr int64_t kMaxExperts = 4096;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Index of the largest value, the lowest one of equals; `taken` entries hold -infinity and lose
// unless all are.
int64_t argmax(const float* values, int64_t n, const bool* taken) {
  int64_t best = -1;
  for (int64_t i = 0; i < n; ++i) {
    if (!taken[i] && (best < 0 || values[i] > values[best])) best = i;
  }
  return best;
}

// Group-limited selection (DeepSeek-V3): experts outside the best `topk_groups` groups leave the
// race.
void mask_groups(const RouterConfig& config, const float* selection, bool* taken) {
  const int64_t per_group = config.num_experts / config.num_groups;
  std::array<float, kMaxExperts> group_score;
  std::array<bool, kMaxExperts> group_taken{};
  for (int64_t g = 0; g < config.num_groups; ++g) {
    float first = kMinusInfinity, second = kMinusInfinity;
    for (int64_t i = g * per_group; i < (g + 1) * per_group; ++i) {
      if (selection[i] > first) {
        second = first;
        first = selection[i];
      } else if (selection[i] > second) {
        second = selection[i];
      }
    }
    group_score[g] = per_group > 1 ? first + second : first;
  }
  std::fill(taken, taken + config.num_experts, true);
  for (int64_t i = 0; i < config.topk_groups; ++i) {
    const int64_t g = argmax(group_score.data(), config.num_groups, group_taken.data());
    group_taken[g] = true;
    std::fill(taken + g * per_group, taken + (g + 1) * per_group, false);
  }
}

// Scores of all experts; false: a logit is NaN, and ids and weights say so.
bool score_token(const RouterConfig& config, const float* logits, float* scores, int32_t* ids,
                 float* weights) {
  const int64_t num_experts = config.num_experts;
  float max_logit = kMinusInfinity;
  for (int64_t i = 0; i < num_experts; ++i) {
    if (std::isnan(logits[i])) {
      std::fill(ids, ids + config.num_slots(), -1);
      std::fill(weights, weights + config.num_slots(), 0.0f);
      ids[0] = 0;
      weights[0] = kNan;
      return false;
    }
    max_logit = std::max(max_logit, logits[i]);
  }
  switch (config.scoring) {
    case ScoringFunction::kSoftmax: {
      float sum = 0.0f;
      for (int64_t i = 0; i < num_experts; ++i) sum += scores[i] = std::exp(logits[i] - max_logit);
      for (int64_t i = 0; i < num_experts; ++i) scores[i] /= sum;
      break;
    }
    case ScoringFunction::kSigmoid:
      for (int64_t i = 0; i < num_experts; ++i) scores[i] = 1.0f / (1.0f + std::exp(-logits[i]));
      break;
    case ScoringFunction::kSoftmaxOverSelected:
      std::copy(logits, logits + num_experts, scores);
      break;
    case ScoringFunction::kSqrtSoftplus:
      for (int64_t i = 0; i < num_experts; ++i) {
        const float x = logits[i];
        scores[i] = std::sqrt(std::max(x, 0.0f) + std::log1p(std::exp(-std::abs(x))));
      }
      break;
  }
  return true;
}

// From the scores of the chosen experts, in `weights`, to their weights; then the shared experts.
void weigh(const RouterConfig& config, const float* logits, int32_t* ids, float* weights) {
  const int64_t num_experts = config.num_experts, top_k = config.top_k;
  float sum = 0.0f;
  if (config.scoring == ScoringFunction::kSoftmaxOverSelected) {
    const float max_logit = *std::max_element(logits, logits + num_experts);
    for (int64_t k = 0; k < top_k; ++k) sum += weights[k] = std::exp(weights[k] - max_logit);
    for (int64_t k = 0; k < top_k; ++k) weights[k] /= sum;
  } else if (config.renormalize) {
    for (int64_t k = 0; k < top_k; ++k) sum += weights[k];
    // Such scores can all underflow; transformers adds the same tiny number for the same reason.
    if (config.scoring != ScoringFunction::kSoftmax) sum += 1e-20f;
    for (int64_t k = 0; k < top_k; ++k) weights[k] /= sum;
  }
  for (int64_t k = 0; k < top_k; ++k) {
    weights[k] *= config.scaling_factor;
    if (!config.expert_scale.empty() && ids[k] >= 0) weights[k] *= config.expert_scale[ids[k]];
  }
  for (int64_t i = 0; i < config.shared_experts; ++i) {
    ids[top_k + i] = static_cast<int32_t>(num_experts + i);
    weights[top_k + i] = config.shared_gate ? 1.0f / (1.0f + std::exp(-logits[num_experts])) : 1.0f;
  }
}

void route_token(const RouterConfig& config, const float* logits, int32_t* ids, float* weights) {
  const int64_t num_experts = config.num_experts;
  std::array<float, kMaxExperts> scores;     // become weights
  std::array<float, kMaxExperts> selection;  // decide who is chosen
  std::array<bool, kMaxExperts> taken{};
  if (!score_token(config, logits, scores.data(), ids, weights)) return;
  for (int64_t i = 0; i < num_experts; ++i) {
    // Softmax scores of very unlikely experts underflow to equal zeros: order by the logit, which
    // keeps their order.
    selection[i] = config.scoring == ScoringFunction::kSoftmax ? logits[i] : scores[i];
    if (!config.correction_bias.empty()) selection[i] = scores[i] + config.correction_bias[i];
  }
  if (config.num_groups > 1) mask_groups(config, selection.data(), taken.data());

  for (int64_t k = 0; k < config.top_k; ++k) {
    const int64_t best = argmax(selection.data(), num_experts, taken.data());
    if (best < 0) {  // fewer candidates than top_k (narrow groups)
      ids[k] = -1;
      weights[k] = 0.0f;
      continue;
    }
    taken[best] = true;
    ids[k] = static_cast<int32_t>(best);
    weights[k] = scores[best];
  }
  weigh(config, logits, ids, weights);
}

}  // namespace

void route_topk(const RouterConfig& config, const float* logits, int64_t num_tokens,
                int32_t* topk_ids, float* topk_weights) {
  MOE4_CHECK(config.num_experts > 0 && config.num_experts <= kMaxExperts);
  MOE4_CHECK(config.top_k > 0 && config.top_k <= config.num_experts);
  MOE4_CHECK(!config.by_token);
  MOE4_CHECK(config.num_groups > 0 && config.num_experts % config.num_groups == 0);
  MOE4_CHECK(config.topk_groups > 0 && config.topk_groups <= config.num_groups);
  MOE4_CHECK(config.correction_bias.empty() ||
             static_cast<int64_t>(config.correction_bias.size()) == config.num_experts);
  MOE4_CHECK(config.expert_scale.empty() ||
             static_cast<int64_t>(config.expert_scale.size()) == config.num_experts);
  for (int64_t t = 0; t < num_tokens; ++t) {
    route_token(config, logits + t * config.num_logits(), topk_ids + t * config.num_slots(),
                topk_weights + t * config.num_slots());
  }
}

void weigh_chosen(const RouterConfig& config, const float* logits, const int32_t* chosen,
                  int32_t* topk_ids, float* topk_weights) {
  MOE4_CHECK(config.by_token && config.num_experts <= kMaxExperts);
  std::array<float, kMaxExperts> scores;
  if (!score_token(config, logits, scores.data(), topk_ids, topk_weights)) return;
  for (int64_t k = 0; k < config.top_k; ++k) {
    topk_ids[k] = chosen[k];
    topk_weights[k] = scores[chosen[k]];
  }
  weigh(config, logits, topk_ids, topk_weights);
}

}  // namespace moe4
