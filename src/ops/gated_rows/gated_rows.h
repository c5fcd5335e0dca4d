// GatedRows and AddScaled: the elementwise ends of MLPs, where no product takes them as its
// epilogue; SoftCap: that of logits. Rows are float32; on a GPU they may be BF16 too.
#pragma once

#include "moe/activation.h"
#include "ops/op.h"

namespace moe4 {

/// y[t, i] = activation(gate[t, i], up[t, i]), or activation(up[t, i]) of a kind without a gate.
/// gate and up have one format.
struct GatedRows {
  static constexpr std::string_view kName = "gated_rows";
  struct Problem {
    int64_t width = 0;
    ActivationParams activation;
  };
  struct Weights {};
  struct Args {
    Rows gate;  ///< [T, width]; empty for a kind without a gate
    Rows up;    ///< [T, width]
    Rows y;     ///< [T, width]; may be gate or up
  };
  static void check(const Problem& problem, const Args& args);
};

/// y[t] += factor x[t], factor = sigmoid(gate[t]), or 1 without a gate: a shared expert joins the
/// routed ones.
struct AddScaled {
  static constexpr std::string_view kName = "add_scaled";
  struct Problem {
    int64_t width = 0;
    bool gated = false;
  };
  struct Weights {};
  struct Args {
    Rows x;     ///< [T, width]
    Rows gate;  ///< [T, 1]; empty without a gate
    Rows y;     ///< [T, width], in place
  };
  static void check(const Problem& problem, const Args& args);
};

/// y[t, i] = cap tanh(y[t, i] / cap).
struct SoftCap {
  static constexpr std::string_view kName = "soft_cap";
  struct Problem {
    int64_t width = 0;
    float cap = 0;  ///< above 0
  };
  struct Weights {};
  struct Args {
    Rows y;  ///< [T, width], in place
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
