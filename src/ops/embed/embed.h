// Embed: from token ids to the vectors that layers start with.
#pragma once

#include "ops/linear/linear_group.h"
#include "ops/op.h"

namespace moe4 {

/// y[t] = scale times row ids[t] of the table, decoded exactly; zeros for an id outside it
/// (padding).
struct Embed {
  static constexpr std::string_view kName = "embed";
  struct Problem {
    int64_t vocab_size = 0;
    int64_t width = 0;
    bool tied = false;  ///< the table is the weight of lm_head
    float scale = 1.0f;
  };
  struct Weights {
    LinearWeights table;  ///< [vocab_size, width] in any weight format; unused when tied
    /// When tied: lm_head, one member of that size. An implementation may read the rows it has
    /// packed instead of keeping a copy, so lm_head must outlive what is prepared.
    const Prepared<LinearGroup>* lm_head = nullptr;
  };
  struct Args {
    const int32_t* ids = nullptr;  ///< [T]
    Rows y;                        ///< [T, width]
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
