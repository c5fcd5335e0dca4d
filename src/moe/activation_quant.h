// Quantise-then-decode of activation rows, as each activation key defines it. Exact divisions,
// float32 throughout.
#pragma once

#include <cstdint>

#include "numerics/scales.h"

namespace moe4 {

/// NVFP4 per block of 16: x' = q * (s * g). n is a multiple of 16; in and out may be the same.
void fake_quantize_nvfp4(const float* in, int64_t n, DecodeScale global, float* out);

/// FP8 per tensor: x' = e4m3(x / scale) * scale.
void fake_quantize_fp8_static(const float* in, int64_t n, DecodeScale scale, float* out);

/// FP8 with a scale of max|x| / 448 per `group` consecutive values (a whole token: group = n).
/// Zeros stay zeros.
void fake_quantize_fp8_dynamic(const float* in, int64_t n, int64_t group, float* out);

}  // namespace moe4
