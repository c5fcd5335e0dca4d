// Products of 16 x 16 and 16 x 8 tiles of F16 in shared memory with float32 sums: mma.m16n8k16 and
// the ldmatrix that feeds it, for every GPU from SM80 on.
//
// F16 rather than BF16 where operands are known to be small: three more bits of mantissa.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace moe4::cuda {

/// Two floats as F16, `low` in the lower half; beyond the range: its ends, NaN stays.
__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ __forceinline__ float2 unpack_f16(uint32_t packed) {
  return __half22float2(*reinterpret_cast<const __half2*>(&packed));
}

/// Bytes from the corner of a 16 x 16 tile in shared memory, whose rows are `stride` bytes apart,
/// to what this lane points ldmatrix at: the tile by rows (operand A [m][k]; transposed: operand B
/// [k][n]).
__device__ __forceinline__ uint32_t tile_by_rows(int lane, int stride) {
  return static_cast<uint32_t>(lane % 16 * stride + lane / 16 * 16);
}
/// The same by columns of 8 x 8 matrices (operand B stored as [n][k]; transposed: operand A stored
/// as [k][m]).
__device__ __forceinline__ uint32_t tile_by_columns(int lane, int stride) {
  return static_cast<uint32_t>((lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 16);
}

/// A 16 x 16 tile: as A the four registers are one operand, as B two for each 8 columns.
__device__ __forceinline__ void load_tile(uint32_t (&tile)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tile[0]), "=r"(tile[1]), "=r"(tile[2]), "=r"(tile[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_tile_transposed(uint32_t (&tile)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tile[0]), "=r"(tile[1]), "=r"(tile[2]), "=r"(tile[3])
               : "r"(address)
               : "memory");
}

/// d += a b for rows g, g + 8 and columns 2t, 2t + 1 of lane 4g + t: d[0], d[1] in row g, d[2],
/// d[3] in row g + 8.
__device__ __forceinline__ void multiply_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// 16 columns: both halves of a tile of B.
__device__ __forceinline__ void multiply_f16(float (&left)[4], float (&right)[4],
                                             const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  multiply_f16(left, a, b[0], b[1]);
  multiply_f16(right, a, b[2], b[3]);
}

}  // namespace moe4::cuda
