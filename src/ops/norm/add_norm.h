// AddNorm: the residual addition and the RMS norm behind it.
#pragma once

#include "ops/op.h"
#include "ops/tensor_ref.h"

namespace moe4 {

/// RMS norm: x / sqrt(mean(x^2) + eps) * w, w being the checkpoint's weight or 1 + that, or 1
/// where there is none, times `factor`.
struct NormSpec {
  float eps = 1e-6f;
  bool one_plus = false;
  bool has_weight = true;
  float factor = 1.0f;
};

/// The multiplier w, [n]; `weight` is not read where there is none. Throws Error(kBadInput) naming
/// the tensor for another shape.
std::vector<float> norm_weights(const NormSpec& spec, const TensorRef& weight, int64_t n);

/// For i in [0, y.rows), with t = rows ? rows[i] : i:
///   residual[t] = (residual[t] + delta[t]) * scale       (delta empty: nothing is added)
///   y[i] = norm(residual[t])
/// Rows are float32; on a GPU delta and y may be BF16 too, each of its own, and a residual to which
/// nothing is added, with a scale of 1. y aliases neither
/// residual nor delta; rows names no row twice.
struct AddNorm {
  static constexpr std::string_view kName = "add_norm";
  struct Problem {
    int64_t width = 0;
    NormSpec norm;
  };
  struct Weights {
    TensorRef weight;  ///< [width]; not read where the norm has none
  };
  struct Args {
    Rows residual;                  ///< [T, width], in place
    Rows delta;                     ///< [T, width] or empty
    float scale = 1.0f;             ///< of the residual
    const int32_t* rows = nullptr;  ///< [y.rows], or null: all
    Rows y;
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
