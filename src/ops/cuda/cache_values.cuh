// How float32 values get into F16 caches.
#pragma once

#include <cuda_fp16.h>

namespace moe4::cuda {

/// Rounds to nearest; saturates at 65504; NaN stays NaN.
__device__ __forceinline__ __half to_f16_saturating(float x) {
  constexpr float kMax = 65504.0f;
  return __float2half_rn(x > kMax ? kMax : x < -kMax ? -kMax : x);
}
__device__ __forceinline__ __half2 to_f16_saturating(float2 x) {
  return __halves2half2(to_f16_saturating(x.x), to_f16_saturating(x.y));
}

}  // namespace moe4::cuda
