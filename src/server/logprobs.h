// Logarithms of probabilities of chosen tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace moe4::server {

struct TokenLogprob {
  int32_t id = 0;
  double logprob = 0;
};

/// A token and what else could have come.
struct ChosenToken {
  int32_t id = 0;
  std::optional<double> logprob;  ///< nothing for a prompt's first token
  std::vector<TokenLogprob> top;  ///< likeliest first; of equals the lower id
};

/// Log-softmax of the model's own logits: no temperature, penalty or mask.
ChosenToken token_logprobs(std::span<const float> logits, int32_t id, int64_t num_top);

}  // namespace moe4::server
