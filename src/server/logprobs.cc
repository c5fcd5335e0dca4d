// Log-softmax and the largest few of many logits.
#include "server/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moe4::server {

ChosenToken token_logprobs(std::span<const float> logits, int32_t id, int64_t num_top) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  const double log_sum = max + std::log(sum);
  ChosenToken chosen{.id = id, .logprob = static_cast<double>(logits[id]) - log_sum};
  const auto keep =
      static_cast<size_t>(std::clamp<int64_t>(num_top, 0, static_cast<int64_t>(logits.size())));
  if (keep == 0) return chosen;
  // The few best so far, best first; nearly every logit fails the first comparison.
  std::vector<int32_t> best;
  float least = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (best.size() == keep && logits[i] <= least) continue;
    if (best.size() == keep) best.pop_back();
    const auto at = std::upper_bound(best.begin(), best.end(), logits[i],
                                     [&](float logit, int32_t b) { return logit > logits[b]; });
    best.insert(at, static_cast<int32_t>(i));
    least = logits[best.back()];
  }
  for (const int32_t b : best) {
    chosen.top.push_back({.id = b, .logprob = static_cast<double>(logits[b]) - log_sum});
  }
  return chosen;
}

}  // namespace moe4::server
