// FC2's outputs between the launches: four values in 64 bits, 14-bit mantissas with one exponent.
//
// In float32 these outputs are the largest traffic of a big batch (T * top_k * H * 4 bytes written
// and read), more than half of FC2's time. A step is 2^-12 of the greatest of the four at most, an
// error near 1e-4 of their size: 0.4 % more than the final rounding to BF16 does alone. Not a
// number and infinity make all four not a number.
//
// The four are rows 2q, 2q + 1, 2q + 8, 2q + 9 of an m16 tile: index [pair][tile][q].
#pragma once

#include <cstdint>

namespace moe4::cuda::hopper {

inline constexpr uint32_t kQuadMask = 0x3fff;
// As a float 2^23 + 2^13: added to a small number, leaves it in the low bits as an integer + 2^13.
inline constexpr uint32_t kQuadMagic = 0x4B002000;
inline constexpr uint32_t kQuadBits = 11;

__device__ __forceinline__ float max_or_nan(float a, float b) {
  float m;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(m) : "f"(a), "f"(b));
  return m;
}

__device__ __forceinline__ uint2 encode_quad(float a, float b, float c, float d) {
  const float most = max_or_nan(max_or_nan(fabsf(a), fabsf(b)), max_or_nan(fabsf(c), fabsf(d)));
  const uint32_t exponent = max(__float_as_uint(most) >> 23, 16u);
  const float scale = __uint_as_float((254 + kQuadBits - exponent) << 23);
  const float magic = __uint_as_float(kQuadMagic);
  const uint32_t qa = __float_as_uint(fmaf(a, scale, magic)) & kQuadMask;
  const uint32_t qb = __float_as_uint(fmaf(b, scale, magic)) & kQuadMask;
  const uint32_t qc = __float_as_uint(fmaf(c, scale, magic)) & kQuadMask;
  const uint32_t qd = __float_as_uint(fmaf(d, scale, magic)) & kQuadMask;
  return make_uint2(qa | (qb << 14) | (qc << 28), (qc >> 4) | (qd << 10) | (exponent << 24));
}

/// sum[i] += weight * value i.
__device__ __forceinline__ void add_quad(uint2 quad, float weight, float* sum) {
  const uint32_t exponent = quad.y >> 24;
  const float scale =
      exponent == 255 ? __uint_as_float(0x7fc00000) : __uint_as_float((exponent - kQuadBits) << 23);
  const auto value = [](uint32_t bits) {
    return __uint_as_float((bits & kQuadMask) | (kQuadMagic & ~kQuadMask)) -
           __uint_as_float(kQuadMagic);
  };
  const float factor = weight * scale;
  sum[0] = fmaf(factor, value(quad.x), sum[0]);
  sum[1] = fmaf(factor, value(quad.x >> 14), sum[1]);
  sum[2] = fmaf(factor, value(__funnelshift_l(quad.x, quad.y, 4)), sum[2]);
  sum[3] = fmaf(factor, value(quad.y >> 10), sum[3]);
}

}  // namespace moe4::cuda::hopper
