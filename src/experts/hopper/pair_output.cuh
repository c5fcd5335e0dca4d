// FC2's outputs between the launches: four values in 64 bits, 14-bit mantissas with one exponent.
//
// In float32 these outputs are the largest traffic of a big batch (T * top_k * H * 4 bytes written
// and read), more than half of FC2's time. A step is 2^-12 of the greatest of the four at most, an
// error near 1e-4 of their size: 0.4 % more than the final rounding to BF16 does alone. Not a
// number and infinity make all four not a number.
//
// The four are rows 2q, 2q + 1, 2q + 8, 2q + 9 of an m16 tile. Index: [position][tile][q], or with
// large tiles [position][tile / 2][q][tile % 2], so that a lane stores 16 bytes. Each word is
//   mantissa of the even row << 18 + mantissa of the odd row << 4 + bits of the exponent
// (8 bits of it in the second word, whose upper four overlap a mantissa and come off again with the
// first word's copy) plus a constant: what is left of the float that the mantissas come in.
#pragma once

#include <cstdint>

namespace moe4::cuda::hopper {

// As a float 2^23 + 2^13: added to a small number, leaves it in the low bits as an integer + 2^13.
inline constexpr uint32_t kQuadMagic = 0x4B002000;
inline constexpr uint32_t kQuadBits = 11;
inline constexpr uint32_t kQuadMask = 0x3fff;
inline constexpr uint32_t kEvenRow = 1u << 18, kOddRow = 1u << 4;  ///< places of the mantissas
inline constexpr uint32_t kQuadConstant = (kQuadMagic & ~kQuadMask) * (kEvenRow + kOddRow);

__device__ __forceinline__ float max_or_nan(float a, float b) {
  float m;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(m) : "f"(a), "f"(b));
  return m;
}

/// `own` and `other`: two rows of a tile, 8 apart, and their neighbours; `own_place` is kEvenRow or
/// kOddRow, `other_place` the other of the two.
__device__ __forceinline__ uint2 encode_quad(float own0, float own8, float other0, float other8,
                                             uint32_t own_place, uint32_t other_place) {
  const float most =
      max_or_nan(max_or_nan(fabsf(own0), fabsf(own8)), max_or_nan(fabsf(other0), fabsf(other8)));
  const uint32_t bits = max(__float_as_uint(most), 16u << 23);
  const float scale = __uint_as_float(((254 + kQuadBits) << 23) - (bits & 0x7f800000));
  const float magic = __uint_as_float(kQuadMagic);
  const auto mantissa = [&](float v) { return __float_as_uint(fmaf(v, scale, magic)); };
  return make_uint2(mantissa(own0) * own_place + (mantissa(other0) * other_place + (bits >> 27)),
                    mantissa(own8) * own_place + (mantissa(other8) * other_place + (bits >> 23)));
}

/// sum[i] += weight * value i: even and odd row, then both of the rows 8 further.
__device__ __forceinline__ void add_quad(uint2 quad, float weight, float* sum) {
  const uint32_t first = quad.x - kQuadConstant;
  const uint32_t high = first & 15;
  const uint32_t second = quad.y - kQuadConstant - (high << 4);
  const uint32_t exponent = (high << 4) | (second & 15);
  const float scale =
      exponent == 255 ? __uint_as_float(0x7fc00000) : __uint_as_float((exponent - kQuadBits) << 23);
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

}  // namespace moe4::cuda::hopper
