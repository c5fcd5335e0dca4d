// RMS normalisation of token rows.
#pragma once

#include <vector>

#include "base/tensor_view.h"
#include "layers/context.h"

namespace moe4 {

/// y = x / sqrt(mean(x^2) + eps) * w, w being `weight` or 1 + `weight` as the architecture says.
class RmsNorm {
 public:
  RmsNorm() = default;
  /// `weight`: [n] of any float type, n a multiple of 16. Throws Error(kBadInput) for another
  /// shape, naming `name`.
  RmsNorm(const TensorView& weight, const std::string& name, int64_t n, float eps, bool one_plus);

  int64_t size() const { return static_cast<int64_t>(weight_.size()); }
  /// One row; `in` and `out` may be the same.
  void apply(const LayerKernels& kernels, const float* in, float* out) const {
    kernels.rms_norm(in, weight_.data(), eps_, size(), out);
  }

 private:
  std::vector<float> weight_;
  float eps_ = 1e-6f;
};

/// residual[t] += delta[t] (unless null), then x[t] = norm(residual[t]). Rows of residual and delta
/// are norm.size() apart.
void add_and_normalize(LayerContext& context, const RmsNorm& norm, const float* delta,
                       int64_t num_tokens, float* residual, const Activations& x);

/// A small float tensor as a vector; throws Error(kBadInput) unless it has n elements.
std::vector<float> float_vector(const TensorView& tensor, const std::string& name, int64_t n);

}  // namespace moe4
