// What a checkpoint's activation key and the user make of a linear's inputs.
#pragma once

#include <optional>

#include "ops/linear/linear_group.h"

namespace moe4 {

/// Rounding of inputs before the product.
struct InputQuant {
  QuantFormat format;
  bool dynamic = false;
  DecodeScale scale;  ///< NVFP4: the global scale; static FP8: the scale
};

/// Nothing where inputs stay as they are. Throws Error(kBadInput) naming the tensor for a static
/// input scale that is missing.
std::optional<InputQuant> input_quant_of(const LinearWeights& weights,
                                         const LinearOptions& options);

/// Rewrites one row of k floats; `in` and `out` may be the same.
void quantize_input(const InputQuant& quant, const float* in, int64_t k, float* out);

}  // namespace moe4
