// The one instruction b12x is built around, and its exact software version for every other GPU.
//
//   D[16 x 8] += sum over k of (A[16 x 64] * scale_A) (B[64 x 8] * scale_B)
//
// E2M1 elements, one UE4M3 scale for each 16 k; register layout and selectors: fragment_layout.h.
//
// SM120a and SM121a (__CUDA_ARCH_FEAT_SM120_ALL, ..SM121_ALL) use the instruction. It has been
// assembled and disassembled, but never run: no such device was at hand.
//
// Elsewhere software takes its place, with the same operands in the same registers. Doubled E2M1
// values are small integers, so the sum over a block of 16 is an exact integer (at most 2304 in
// quarters); times the two scales it has at most 20 significant bits and is exact in float32. What
// rounds is the sum: D + block 0, + block 1, + block 2, + block 3, in float32, to nearest even.
// The hardware sums the same exact terms, but in an order and with an intermediate width that are
// not documented: its results may differ from the software's in the last bits of the float32
// accumulator. A NaN scale makes its row or column NaN.
#pragma once

#include <cstdint>

#include "numerics/e4m3.h"

#if defined(__CUDA_ARCH_FEAT_SM120_ALL) || defined(__CUDA_ARCH_FEAT_SM121_ALL)
#define MOE4_B12X_NATIVE 1
#else
#define MOE4_B12X_NATIVE 0
#endif

namespace moe4::b12x {

namespace software {

// Byte n of the result is byte `selector` nibble n of {low, high}, or its sign bit in all eight
// bits where the nibble's own top bit is set.
__device__ __forceinline__ uint32_t permute(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
  return result;
}

// Eight E2M1 codes -> eight signed bytes of twice their value, codes 0-3 in `low`, 4-7 in `high`.
__device__ __forceinline__ void doubled_values(uint32_t codes, int& low, int& high) {
  // Byte lookups by magnitude code, for positive and negative codes: 0 1 2 3 4 6 8 12.
  constexpr uint32_t kPositive[2] = {0x03020100u, 0x0c080604u};
  constexpr uint32_t kNegative[2] = {0xfdfeff00u, 0xf4f8fafcu};
  const uint32_t magnitudes = codes & 0x77777777u;
  // The sign bit of every nibble, spread over a byte.
  const uint32_t even = codes << 4;
  const uint32_t sign_low = permute(even, codes, 0xd9c8);
  const uint32_t sign_high = permute(even, codes, 0xfbea);
  low = (permute(kPositive[0], kPositive[1], magnitudes) & ~sign_low) |
        (permute(kNegative[0], kNegative[1], magnitudes) & sign_low);
  high = (permute(kPositive[0], kPositive[1], magnitudes >> 16) & ~sign_high) |
         (permute(kNegative[0], kNegative[1], magnitudes >> 16) & sign_high);
}

// A row of A or a column of B: its eight words lie in the first or second register pair of the four
// lanes from `quad` on.
struct Vector {
  int low[8], high[8];
  float scale[4];
};

__device__ __forceinline__ void gather(uint32_t first, uint32_t second, uint32_t scales, int quad,
                                       int scale_lane, Vector& v) {
#pragma unroll
  for (int w = 0; w < 8; ++w) {
    const uint32_t word = __shfl_sync(~0u, w < 4 ? first : second, quad + (w & 3));
    doubled_values(word, v.low[w], v.high[w]);
  }
  const uint32_t bytes = __shfl_sync(~0u, scales, scale_lane);
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    v.scale[b] = e4m3_to_float(static_cast<uint8_t>(bytes >> (8 * b)));
  }
}

__device__ __forceinline__ float dot(const Vector& row, const Vector& column, float sum) {
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    int quarters = 0;
#pragma unroll
    for (int w = 2 * b; w < 2 * b + 2; ++w) {
      quarters = __dp4a(row.low[w], column.low[w], quarters);
      quarters = __dp4a(row.high[w], column.high[w], quarters);
    }
    // Both products are exact, so that contracting the second into an fma changes nothing.
    sum += static_cast<float>(quarters) * (0.25f * (row.scale[b] * column.scale[b]));
  }
  return sum;
}

// Not inlined: it is hundreds of instructions, and speed is not what it is for.
template <int kThreadIdA, int kThreadIdB>
__device__ __noinline__ float4 block_scaled_mma(float4 d, uint4 a, uint2 b, uint32_t scales_a,
                                                uint32_t scales_b) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  Vector rows[2];
  gather(a.x, a.z, scales_a, 4 * g, 4 * g + 2 * kThreadIdA, rows[0]);
  gather(a.y, a.w, scales_a, 4 * g, 4 * g + 2 * kThreadIdA + 1, rows[1]);
  Vector column;
  gather(b.x, b.y, scales_b, 8 * t, 8 * t + kThreadIdB, column);
  d.x = dot(rows[0], column, d.x);
  d.z = dot(rows[1], column, d.z);
  gather(b.x, b.y, scales_b, 8 * t + 4, 8 * t + 4 + kThreadIdB, column);
  d.y = dot(rows[0], column, d.y);
  d.w = dot(rows[1], column, d.w);
  return d;
}

}  // namespace software

/// D += A B for one m16n8k64 tile. All 32 lanes of the warp call it. Lane 4g + 2 kThreadIdA + r
/// brings the scales of row g + 8r, lane 4g + kThreadIdB those of column g.
template <int kThreadIdA, int kThreadIdB>
__device__ __forceinline__ void block_scaled_mma(float (&d)[4], const uint4& a, const uint2& b,
                                                 uint32_t scales_a, uint32_t scales_b) {
  static_assert(kThreadIdA >= 0 && kThreadIdA < 2 && kThreadIdB >= 0 && kThreadIdB < 4);
#if MOE4_B12X_NATIVE
  asm("mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X"
      ".f32.e2m1.e2m1.f32.ue4m3 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, "
      "%10, {0, %12}, %11, {0, %13};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "r"(scales_a), "r"(scales_b),
        "n"(kThreadIdA), "n"(kThreadIdB));
#else
  const float4 sum = software::block_scaled_mma<kThreadIdA, kThreadIdB>(
      make_float4(d[0], d[1], d[2], d[3]), a, b, scales_a, scales_b);
  d[0] = sum.x, d[1] = sum.y, d[2] = sum.z, d[3] = sum.w;
#endif
}

}  // namespace moe4::b12x
