// Route: from router logits to each token's experts and their weights.
#pragma once

#include "moe/routing.h"
#include "ops/op.h"

namespace moe4 {

/// topk_ids and topk_weights [T, num_slots()] of logits [T, num_logits()] as moe/routing.h defines
/// them: in order of falling score, ties to the lowest id, a weight of NaN for a row with a NaN,
/// shared experts last. Logits are float32; on a GPU they may be BF16 too.
struct Route {
  static constexpr std::string_view kName = "route";
  /// `correction_bias` and `expert_scale` are not read from here but from the weights.
  using Problem = RouterConfig;
  struct Weights {
    std::vector<float> correction_bias;  ///< [num_experts] or empty
    std::vector<float> expert_scale;     ///< [num_experts] or empty
    /// Of RouterConfig::by_token: [vocabulary, top_k], every one an expert.
    std::vector<int32_t> experts_of_token;
  };
  struct Args {
    Rows logits;                         ///< [T, num_logits()]
    int32_t* topk_ids = nullptr;         ///< [T, num_slots()]
    float* topk_weights = nullptr;       ///< [T, num_slots()]
    const int32_t* token_ids = nullptr;  ///< [T], of by_token; below the vocabulary
    /// On the op's device: rows from this number on are padding, whose ids become -1. Null: there
    /// are none.
    const int32_t* num_rows = nullptr;
    int64_t first_row = 0;  ///< the number of the first row
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
