// The shape of one MoE layer and the share of it that this process computes.
#pragma once

#include <cstdint>
#include <limits>

#include "moe/activation.h"

namespace moe4 {

/// Everything about a routed-experts layer that is not its numbers.
struct MoeProblem {
  int64_t hidden_size = 0;        ///< H
  int64_t intermediate_size = 0;  ///< I of this rank's weights (already divided by the TP size)
  int64_t num_experts = 0;        ///< of the model; topk_ids are below this, or -1
  int64_t num_local_experts = 0;  ///< held by this process; equals num_experts without EP
  int64_t top_k = 0;
  /// So many of the experts, the last ones, are in the last of every token's top_k slots, in this
  /// order (slots of padding are -1 all the same). Backends may make use of it.
  int64_t num_shared = 0;
  ActivationParams activation;
  /// Llama-4: the routing weight multiplies the input of the expert, not its output.
  bool weight_on_input = false;
};

/// The same with so many experts that every token takes behind the routed ones.
inline MoeProblem with_shared_experts(MoeProblem problem, int64_t count) {
  problem.num_experts += count;
  problem.num_local_experts += count;
  problem.top_k += count;
  problem.num_shared += count;
  return problem;
}

/// How the layer is spread over processes.
struct Parallel {
  int tp_size = 1;
  int tp_rank = 0;
  int ep_size = 1;
  int ep_rank = 0;
};

}  // namespace moe4
