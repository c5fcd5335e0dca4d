// Activation buffers in both arithmetic modes.
#include "layers/context.h"

#include <algorithm>

namespace moe4 {

Activations take_activations(LayerContext& context, int64_t num_tokens, int64_t width) {
  Activations x{.width = width, .stride = padded_row(width)};
  x.f32 = context.scratch.take<float>(num_tokens * x.stride);
  for (int64_t t = 0; t < num_tokens; ++t) {
    std::fill(x.f32 + t * x.stride + width, x.f32 + (t + 1) * x.stride, 0.0f);
  }
  if (context.compute_dtype == DType::kBF16) {
    x.rows = {context.scratch.take<Bf16>(num_tokens * x.stride), DType::kBF16, x.stride};
  } else {
    x.rows = {x.f32, DType::kF32, x.stride};
  }
  return x;
}

void finish_row(const LayerContext& context, const Activations& x, int64_t token) {
  if (x.rows.dtype != DType::kBF16) return;
  auto* out = static_cast<Bf16*>(const_cast<void*>(x.rows.data)) + token * x.stride;
  context.kernels.to_bf16(x.f32 + token * x.stride, x.stride, out);
}

}  // namespace moe4
