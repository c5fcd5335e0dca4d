// Packed words and scale bytes -> A fragments of mma.m16n8k16, exactly (packed_layout.h).
#pragma once

#include <cstdint>

#include "ops/experts/gpu/packed_layout.h"

namespace moe4::cuda {

/// bf16x2 product. Exact here: at most 6 significant bits, and subnormal inputs are kept.
__device__ __forceinline__ uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
  uint32_t d;
#if __CUDA_ARCH__ >= 900
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
#else
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(0x80008000u));
#endif
  return d;
}

/// The scales of rows g (low half) and g + 8 for chunk C as bf16x2, times 2^106 (MXFP4: the stored
/// exponents as they are). `scales` is the lane's 8 bytes of the unit.
template <WeightFormat Format, int C>
__device__ __forceinline__ uint32_t decode_scales(uint2 scales) {
  const uint32_t word = C < 2 ? scales.x : scales.y;
  const uint32_t bytes = __byte_perm(word, 0, (C & 1) ? 0x4342 : 0x4140);
  if constexpr (Format == WeightFormat::kMxfp4) return bytes * 128u;
  return bytes * 16u + 0x70007000u;
}

/// One half of a bf16x2 twice. As an operand of multiply_bf16x2() it is no instruction but a
/// modifier, where the machine has one.
__device__ __forceinline__ uint32_t twice(uint32_t pair, bool high) {
  uint32_t d;
  if (high) {
    asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %1;\nmov.b32 %0, {h, h};\n}" : "=r"(d) : "r"(pair));
  } else {
    asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %1;\nmov.b32 %0, {l, l};\n}" : "=r"(d) : "r"(pair));
  }
  return d;
}

/// Pairs of extract_pairs() times their rows' scales: weight * 2^-20. Register i of an mma's four
/// has row g if it is even.
template <int Count>
__device__ __forceinline__ void scale_pairs(const uint32_t* pairs, uint32_t scales, uint32_t* a) {
#pragma unroll
  for (int i = 0; i < Count; ++i) a[i] = multiply_bf16x2(pairs[i], twice(scales, i % 2 == 1));
}

/// Two words of a chunk -> registers a0 .. a3 of two mma, weight * 2^-20. `shift_left` as for
/// extract_pairs().
template <class Shift = ShiftLeft>
__device__ __forceinline__ void decode_pairs(uint32_t w0, uint32_t w1, uint32_t scales, uint32_t* a,
                                             Shift shift_left = {}) {
  extract_pairs(w0, w1, a, shift_left);
  scale_pairs<8>(a, scales, a);
}

/// Four words of a chunk -> registers a0 .. a3 of its four mma, weight * 2^-20.
template <class Shift = ShiftLeft>
__device__ __forceinline__ void decode_chunk(uint4 words, uint32_t scales, uint32_t* a,
                                             Shift shift_left = {}) {
  decode_pairs(words.x, words.y, scales, a, shift_left);
  decode_pairs(words.z, words.w, scales, a + 8, shift_left);
}

/// D += A B for one m16n8k16 tile; `a` points at four registers.
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t* a, uint32_t b0,
                                             uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace moe4::cuda
