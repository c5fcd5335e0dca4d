// A CPU model of the block-scaled FP4 mma, written from the PTX ISA alone: which element of which
// matrix each bit of each lane's registers is. It shares nothing with b12x's own layout code.
#pragma once

#include <array>
#include <cstdint>

#include "numerics/e2m1.h"
#include "numerics/e4m3.h"

namespace moe4::testing {

/// mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32
/// .ue4m3 over the registers of a warp.
struct PtxBlockScaledMma {
  std::array<std::array<uint32_t, 4>, 32> a{};
  std::array<std::array<uint32_t, 2>, 32> b{};
  std::array<uint32_t, 32> scale_a{}, scale_b{};
  int thread_id_a = 0;  ///< 0, 1: which two lanes of a quad bring scale_A
  int thread_id_b = 0;  ///< 0 .. 3: which lane of a quad brings scale_B

  /// PTX ISA, "Matrix Fragments for mma.m16n8k64", .e2m1: 32 elements a_i a lane,
  ///   row = groupID           for 0 <= i < 8 and 16 <= i < 24, else groupID + 8
  ///   col = threadID_in_group * 8 + (i & 7)        for i < 16, else the same + 32
  /// Element i is nibble i % 8 of register i / 8, low nibble first.
  float a_element(int row, int col) const {
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane >> 2, in_group = lane & 3;
      for (int i = 0; i < 32; ++i) {
        const bool low_rows = i < 8 || (i >= 16 && i < 24);
        const int r = low_rows ? group : group + 8;
        const int c = in_group * 8 + (i & 7) + (i < 16 ? 0 : 32);
        if (r == row && c == col) return value(a[lane][i / 8], i % 8);
      }
    }
    return 0;
  }

  /// 16 elements b_i a lane: row = threadID_in_group * 8 + (i & 7), + 32 from i = 8 on;
  /// col = groupID.
  float b_element(int row, int col) const {
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 16; ++i) {
        const int r = (lane & 3) * 8 + (i & 7) + (i < 8 ? 0 : 32);
        if (r == row && (lane >> 2) == col) return value(b[lane][i / 8], i % 8);
      }
    }
    return 0;
  }

  /// scale_vec::4X: scale_A is 16 x 4. With thread-id-a s, lanes 2s and 2s + 1 of a quad bring the
  /// four bytes of rows groupID and groupID + 8.
  double a_scale(int row, int block) const {
    const int lane = 4 * (row % 8) + 2 * thread_id_a + row / 8;
    return e4m3_to_float(static_cast<uint8_t>(scale_a[lane] >> (8 * block)));
  }
  /// scale_B is 4 x 8: lane thread-id-b of quad n brings the four bytes of column n.
  double b_scale(int block, int col) const {
    return e4m3_to_float(static_cast<uint8_t>(scale_b[4 * col + thread_id_b] >> (8 * block)));
  }

  /// Sum over k of the scaled products, in double: every term is exact.
  double product(int row, int col) const {
    double sum = 0;
    for (int k = 0; k < 64; ++k) {
      sum += a_element(row, k) * a_scale(row, k / 16) * (b_element(k, col) * b_scale(k / 16, col));
    }
    return sum;
  }

  /// Accumulator d_i of a lane: row = groupID, + 8 from i = 2 on; column = 2 threadID_in_group +
  /// (i & 1).
  static int d_row(int lane, int i) { return (lane >> 2) + (i < 2 ? 0 : 8); }
  static int d_column(int lane, int i) { return 2 * (lane & 3) + (i & 1); }

 private:
  static float value(uint32_t word, int nibble) {
    return e2m1_to_float(static_cast<uint8_t>((word >> (4 * nibble)) & 15));
  }
};

}  // namespace moe4::testing
