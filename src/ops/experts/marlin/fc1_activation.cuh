// From FC1's sums to BF16 activations, the same in every kernel of FC1.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "ops/experts/gpu/activation.cuh"
#include "ops/experts/gpu/packed_layer.h"

namespace moe4::cuda {

/// What an expert's sums are multiplied with.
struct Fc1Scales {
  float gate = 0.0f;  ///< gated activations only
  float up = 0.0f;
};

__device__ __forceinline__ Fc1Scales fc1_scales(const PackedLayerView& layer, int expert) {
  return {layer.activation.is_gated() ? layer.alpha_gate[expert] : 0.0f, layer.alpha_up[expert]};
}

/// Rows g and g + 8 of one m16 tile and kTokens tokens -> their elements of `act`. `rows[q]` is the
/// token's pair, or -1; top and bottom are its sums for the two rows.
template <int kTokens>
__device__ __forceinline__ void store_activations(const PackedLayerView& layer, __nv_bfloat16* act,
                                                  int expert, Fc1Scales scales, int m16_tile, int g,
                                                  const int (&pairs)[kTokens],
                                                  const float (&top)[kTokens],
                                                  const float (&bottom)[kTokens]) {
  const int width = layer.intermediate_size;
  const int64_t expert_row = static_cast<int64_t>(expert) * width;
  if (layer.activation.is_gated()) {
    const int i = m16_tile * (kTileRows / 2) + g;
    const float bias_gate = layer.bias_gate ? layer.bias_gate[expert_row + i] : 0.0f;
    const float bias_up = layer.bias_up ? layer.bias_up[expert_row + i] : 0.0f;
#pragma unroll
    for (int q = 0; q < kTokens; ++q) {
      if (pairs[q] < 0) continue;
      const float value = activate(layer.activation, fmaf(top[q], scales.gate, bias_gate),
                                   fmaf(bottom[q], scales.up, bias_up));
      act[static_cast<int64_t>(pairs[q]) * width + i] = __float2bfloat16(value);
    }
    return;
  }
  if (m16_tile * kTileRows >= width) return;  // a tile of padding
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = m16_tile * kTileRows + g + 8 * half;
    const float bias = layer.bias_up ? layer.bias_up[expert_row + i] : 0.0f;
#pragma unroll
    for (int q = 0; q < kTokens; ++q) {
      if (pairs[q] < 0) continue;
      const float up = fmaf(half == 0 ? top[q] : bottom[q], scales.up, bias);
      act[static_cast<int64_t>(pairs[q]) * width + i] =
          __float2bfloat16(activate(layer.activation, 0.0f, up));
    }
  }
}

}  // namespace moe4::cuda
