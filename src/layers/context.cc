// Activation buffers.
#include "layers/context.h"

#include <algorithm>

namespace moe4 {

Activations take_activations(LayerContext& context, int64_t num_tokens, int64_t width) {
  const int64_t stride = padded_row(width);
  auto* data = context.scratch.take<float>(num_tokens * stride);
  if (stride != width) {
    for (int64_t t = 0; t < num_tokens; ++t) {
      std::fill(data + t * stride + width, data + (t + 1) * stride, 0.0f);
    }
  }
  return {data, width, stride};
}

}  // namespace moe4
