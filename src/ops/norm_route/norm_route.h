// NormRoute: the norm in front of a mixture of experts, its router, and the choice of experts.
#pragma once

#include "ops/linear/linear_group.h"
#include "ops/norm/add_norm.h"
#include "ops/route/route.h"

namespace moe4 {

/// AddNorm, the router's LinearGroup and Route one after the other, with their bits:
///   residual = (residual + delta) * scale
///   y = norm(residual)
///   topk_ids, topk_weights = route(y W^T + bias)
/// Logits are float32 and stay inside.
struct NormRoute {
  static constexpr std::string_view kName = "norm_route";
  struct Problem {
    AddNorm::Problem norm;
    LinearGroup::Problem router;  ///< [num_experts], then [1] with RouterConfig::shared_gate
    bool bf16_router = false;     ///< the router's weights, all of them, are BF16
    RouterConfig route;
  };
  /// The three ops, prepared on the same device, which must outlive what is prepared.
  struct Weights {
    const Prepared<AddNorm>* norm = nullptr;
    const Prepared<LinearGroup>* router = nullptr;
    const Prepared<Route>* route = nullptr;
  };
  struct Args {
    Rows residual;                      ///< [T, width] float32, in place
    Rows delta;                         ///< [T, width] activations, or empty
    float scale = 1.0f;                 ///< of the residual
    Rows y;                             ///< [T, width] activations; aliases neither
    int32_t* topk_ids = nullptr;        ///< [T, num_slots()]
    float* topk_weights = nullptr;      ///< [T, num_slots()]
    const int32_t* num_rows = nullptr;  ///< Route::Args
    int64_t num_decode_tokens = -1;     ///< LinearGroup::Args
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
