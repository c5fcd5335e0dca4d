// A chunk's FP4 fragments -> the A operands of four mma.m16n8k16, exactly: the in-kernel BF16 mode.
//
// A bf16 with a code's sign in bit 15 and its magnitude in bits 8..6 is code * 2^-126 (code 1 is
// the subnormal); an E4M3 byte in bits 11..4 is scale * 2^-120 (subnormals included). Scales are
// lifted to 2^106 by two exact products, so the weight comes out times 2^-20: kBf16AlphaScale in
// the float32 alpha takes that back.
//
// The pair of nibbles i and i + 4 of a word are elements 2i and 2i + 1 (fragment_layout.h), so a
// lane's word is four bf16x2 registers for eight consecutive k, and the B operand is the token's
// row in its natural order: 16 bytes at k = 8t and 16 at k = 8t + 32.
#pragma once

#include <cstdint>

#include "ops/experts/b12x/fragment_layout.h"
#include "ops/experts/gpu/decode.cuh"

namespace moe4::b12x {

/// Scales of blocks t / 2 (registers a0, a1) and t / 2 + 2 (a2, a3) of one row's four, each as
/// bf16x2 times 2^106.
struct RowScales {
  uint32_t first, second;
};

__device__ __forceinline__ RowScales decode_row_scales(uint32_t bytes, int t) {
  constexpr uint32_t kLift = 0x78007800u;  // 2^113, twice
  const uint32_t block = static_cast<uint32_t>(t >> 1) * 0x0101u;
  const auto lift = [](uint32_t pair) {
    return cuda::multiply_bf16x2(cuda::multiply_bf16x2(pair << 4, kLift), kLift);
  };
  return {lift(__byte_perm(bytes, 0, 0x4040u + block)),
          lift(__byte_perm(bytes, 0, 0x4242u + block))};
}

/// One word -> four bf16x2 pairs of consecutive k, weight * 2^-20.
__device__ __forceinline__ void decode_word(uint32_t word, uint32_t scale, uint32_t (&pairs)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int sign = 12 - 4 * i, magnitude = 6 - 4 * i;
    const uint32_t signs = sign >= 0 ? word << sign : word >> -sign;
    const uint32_t magnitudes = magnitude >= 0 ? word << magnitude : word >> -magnitude;
    pairs[i] = cuda::multiply_bf16x2((signs & 0x80008000u) | (magnitudes & 0x01c001c0u), scale);
  }
}

/// The four registers of each of a chunk's four mma.m16n8k16, of one half.
struct Bf16Fragments {
  uint32_t a[4][4];
};

/// `codes`: a0 .. a3 of the half; `scales_g`, `scales_g8`: the four scales of rows g and g + 8.
__device__ __forceinline__ void decode_half(const uint4& codes, uint32_t scales_g,
                                            uint32_t scales_g8, int t, Bf16Fragments& out) {
  const RowScales g = decode_row_scales(scales_g, t), g8 = decode_row_scales(scales_g8, t);
  uint32_t row_g[4], row_g8[4];
#pragma unroll
  for (int second = 0; second < 2; ++second) {
    decode_word(second ? codes.z : codes.x, second ? g.second : g.first, row_g);
    decode_word(second ? codes.w : codes.y, second ? g8.second : g8.first, row_g8);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      uint32_t* a = out.a[2 * second + m];
      a[0] = row_g[2 * m], a[1] = row_g8[2 * m];
      a[2] = row_g[2 * m + 1], a[3] = row_g8[2 * m + 1];
    }
  }
}

}  // namespace moe4::b12x
