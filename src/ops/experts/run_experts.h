// Routed experts as a step calls them, whatever precision and device their backend has.
#pragma once

#include "moe/routed_experts.h"
#include "ops/execution.h"

namespace moe4 {

/// Routed experts of some tokens: x and y [T, hidden_size] in Execution::activations(), topk_ids
/// and topk_weights [T, top_k of their problem]. Backends of the CPU that take and give BF16 only
/// get x rounded to it.
struct ExpertsCall {
  Rows x;
  const int32_t* topk_ids = nullptr;
  const float* topk_weights = nullptr;
  Rows y;                          ///< overwritten; rows dense, as those of x
  int64_t num_decode_tokens = -1;  ///< of the first rows: ExpertsArgs::num_decode_tokens
};

void run_experts(RoutedExperts& experts, const ExpertsCall& call, Execution& execution);

}  // namespace moe4
