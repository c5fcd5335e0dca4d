// How float32 values get into F16 and FP8 caches.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

namespace moe4::cuda {

/// Rounds to nearest; saturates at 65504; NaN stays NaN.
__device__ __forceinline__ __half to_f16_saturating(float x) {
  constexpr float kMax = 65504.0f;
  return __float2half_rn(x > kMax ? kMax : x < -kMax ? -kMax : x);
}
__device__ __forceinline__ __half2 to_f16_saturating(float2 x) {
  return __halves2half2(to_f16_saturating(x.x), to_f16_saturating(x.y));
}

/// E4M3: rounds to nearest; saturates at 448; NaN stays NaN.
__device__ __forceinline__ __nv_fp8x2_storage_t to_fp8_saturating(float2 x) {
  return __nv_cvt_float2_to_fp8x2(x, __NV_SATFINITE, __NV_E4M3);
}

}  // namespace moe4::cuda
