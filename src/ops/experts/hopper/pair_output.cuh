// FC2's outputs between launches: four values in 64 bits, 14-bit mantissas with one exponent.
//
// In float32 these outputs are the largest traffic of a big batch (T * top_k * H * 4 bytes written
// and read), more than half of FC2's time. A step is 2^-12 of the greatest of the four at most, an
// error near 5e-5 of their size: 0.1 % more than the final rounding to BF16 does alone. Not a
// number and infinity make all four not a number.
//
// The four of quad g are rows g, g + 8, g + 16 and g + 24 of 32 rows, two m16 tiles: what one lane
// holds of a token when its warp multiplies both. hopper's layout: [128 rows][position][256 bytes],
// so that what a consumer group of large tiles computes lies together. 16-byte unit 4 (row % 128 /
// 32) + i of the 256 bytes has quads 2i and 2i + 1 and is unit (4 (row % 128 / 32) + i) ^ (position
// % 8) in memory, for the banks of the shared memory that the rows come from. Each word is
//   mantissa of the lower row << 18 + mantissa of the higher row << 4 + bits of the exponent
// (8 bits of it in the second word, whose upper four overlap a mantissa and come off again with the
// first word's copy) plus a constant: what is left of the float that the mantissas come in.
#pragma once

#include <cstdint>

namespace moe4::cuda {

// As a float 2^12 + 2^2: added to a number below 4 in magnitude, leaves it in the low bits as a
// multiple of 2^-11, + 2^13.
inline constexpr uint32_t kQuadMagic = 0x45802000;
inline constexpr uint32_t kQuadMask = 0x3fff;
inline constexpr uint32_t kLowerRow = 1u << 18, kHigherRow = 1u << 4;  ///< places of mantissas
inline constexpr uint32_t kQuadConstant = (kQuadMagic & ~kQuadMask) * (kLowerRow + kHigherRow);
inline constexpr uint32_t kExponentMask = 0x7f800000;
inline constexpr float kQuadShrink = 1.0f - 0x1p-13f;  ///< so that nothing is rounded up to 4

__device__ __forceinline__ float max_or_nan(float a, float b) {
  float m;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(m) : "f"(a), "f"(b));
  return m;
}

/// Quads of values times `alpha`, which is finite.
class QuadEncoder {
 public:
  __device__ __forceinline__ explicit QuadEncoder(float alpha)
      : magnitude_(fabsf(alpha)),
        shrunk_alpha_(alpha * kQuadShrink),
        floor_(fmaxf(0x1p-111f, magnitude_ * 0x1p-120f)) {}

  /// Rows g, g + 8, g + 16, g + 24.
  __device__ __forceinline__ uint2 encode(float v0, float v1, float v2, float v3) const {
    const float most =
        max_or_nan(max_or_nan(fabsf(v0), fabsf(v1)), max_or_nan(fabsf(v2), fabsf(v3)));
    // With the floor neither the scale nor its product with alpha is infinite, if all four are 0.
    const uint32_t bits = __float_as_uint(fmaf(most, magnitude_, floor_));
    // 2^128 / 2^exponent: the values come to less than 4.
    const float scale = shrunk_alpha_ * __uint_as_float(~bits & kExponentMask);
    const auto mantissa = [&](float v) {
      return __float_as_uint(fmaf(v, scale, __uint_as_float(kQuadMagic)));
    };
    return make_uint2(mantissa(v0) * kLowerRow + (mantissa(v1) * kHigherRow + (bits >> 27)),
                      mantissa(v2) * kLowerRow + (mantissa(v3) * kHigherRow + (bits >> 23)));
  }

 private:
  const float magnitude_, shrunk_alpha_, floor_;
};

/// What add_quad() multiplies by for a routing weight.
__device__ __forceinline__ float quad_weight(float weight) { return weight * (1.0f / kQuadShrink); }

/// sum[i] += routing weight * value i.
__device__ __forceinline__ void add_quad(uint2 quad, float weight, float* sum) {
  const uint32_t first = quad.x - kQuadConstant;
  const uint32_t high = first & 15;
  const uint32_t second = quad.y - kQuadConstant - (high << 4);
  const uint32_t exponent = (high << 4) | (second & 15);
  const float scale =
      exponent == 255 ? __uint_as_float(0x7fc00000) : __uint_as_float((exponent - 1) << 23);
  const auto value = [](uint32_t bits) {
    return __uint_as_float((bits & kQuadMask) | (kQuadMagic & ~kQuadMask)) -
           __uint_as_float(kQuadMagic);
  };
  const float factor = weight * scale;
  sum[0] = fmaf(factor, value(first >> 18), sum[0]);
  sum[1] = fmaf(factor, value(first >> 4), sum[1]);
  sum[2] = fmaf(factor, value(second >> 18), sum[2]);
  sum[3] = fmaf(factor, value(second >> 4), sum[3]);
}

}  // namespace moe4::cuda
