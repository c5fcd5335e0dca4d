// Memory layouts of packed weights and activation rows, shared by their packers and kernels.
//
// Weights. A panel is 32 output rows side by side; FC1's panels hold 16 gate rows and then the 16
// up rows of the same columns of the intermediate (32 up rows where there is no gate), so that the
// activation finds both in one tile. Along K a panel is a run of units of 32 inputs:
//
//   NVFP4 unit, 576 bytes, nine cache lines, for block b in {0,1} (16 inputs) and half h in {0,1}
//   (16 rows):
//     codes  at 128 (2b + h): two vectors of 64 bytes. Byte 4r + i of vector v holds, for row r of
//            the half, input 16b + 8v + i in its low nibble and input 16b + 8v + 4 + i in its high
//            nibble: after one table look-up per nibble each 32-bit lane is a row with four
//            consecutive inputs, the operand of vpdpbusd, vpmaddubsw and sdot.
//     scales at 512 + 16 (2b + h): one byte per row, 5 exponent and 3 mantissa bits, no sign:
//            scale = 2^(e - 9) (1 + m/8). E4M3's subnormals are normal here, so decoding is a shift
//            and an addition. A scale of zero is stored as any scale with codes of zero.
//   MXFP4 unit, 544 bytes: the same codes, then
//     scales at 512 + 16 h: one byte per row for both blocks, the exponent of a float32.
//   Dense unit (BF16, F16, F32, FP8): [32 inputs][32 rows] elements; where FP8 weights have scales
//   within a row, float32 scales [ceil(K/128)][32 rows] come after all units of a panel.
//   Q8_0 unit, 1088 bytes, a block of ggml's of every row: int8 [32 inputs][32 rows], then
//   F16 scales [32 rows].
//
// K is padded to whole units with zeros. Exactly 0.5625 bytes a weight for NVFP4, 0.53125 for
// MXFP4, 1.0625 for Q8_0.
//
// Activations. One row of records, one record per block of 16 inputs:
//   Fp4Block: twice the E2M1 values, exact in int8.
//   Int16Block: a = rint(x / s), split as 256 hi + lo so that both are int8; s is a power of two
//   per group of 256 inputs and a has up to 15 bits with its sign: every BF16 value within 2^-6 of
//   its group's largest is exact, and what is smaller errs by at most 2^-14 of the largest.
// Weights are offset by 12 to make them unsigned bytes (vpdpbusd wants one unsigned operand), so
// each record carries `start` = -12 * sum of its integers, where the integer accumulator begins.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/checked_math.h"

namespace moe4::cpu {

inline constexpr int kPanelRows = 32;
inline constexpr int kBlock = 16;       // inputs per block scale
inline constexpr int kUnitInputs = 32;  // two blocks
inline constexpr int kUnitScalesOffset = 512;
inline constexpr int kScaleExponentBias = 9;

/// What kernels of E2M1 weights need to know about the scales of a unit: where those of block b and
/// half h are, and how a byte becomes the bits of a float32.
struct Nvfp4Unit {
  static constexpr int kBytes = 576;
  static constexpr int kScaleShift = 20;
  static constexpr int32_t kScaleBias = (127 - kScaleExponentBias) << 23;
  static constexpr int scales(int b, int h) { return kUnitScalesOffset + 16 * (2 * b + h); }
};
/// Not a multiple of a vector's 64 bytes: no aligned loads.
struct Mxfp4Unit {
  static constexpr int kBytes = 544;
  static constexpr int kScaleShift = 23;
  static constexpr int32_t kScaleBias = 0;
  static constexpr int scales(int /*b*/, int h) { return kUnitScalesOffset + 16 * h; }
};
/// What kernels of ggml's Q8_0 need to know about a unit.
struct Q8_0Unit {
  static constexpr int kBytes = 1088;
  static constexpr int kScales = 1024;
};
/// Stored MXFP4 exponents: normal floats with room for sums of products above (2^73).
inline constexpr int kLeastExponent = 1, kMostExponent = 200;

/// Added to every decoded weight: 2 * 6, the largest magnitude of twice an E2M1 value.
inline constexpr int kWeightOffset = 12;
/// Twice the value of each E2M1 code, plus kWeightOffset.
inline constexpr uint8_t kOffsetTwiceE2m1[16] = {12, 13, 14, 15, 16, 18, 20, 24,
                                                 12, 11, 10, 9,  8,  6,  4,  0};

/// Inputs that share one power-of-two scale of Int16Block rows.
inline constexpr int kInt16Group = 256;
/// Inputs that share one float32 weight scale in FP8 panels.
inline constexpr int kDenseGroup = 128;

struct Fp4Block {
  int8_t twice[16];  // 2 * e2m1 value, -12..12
  int32_t start;
  float scale;  // E4M3 block scale as float; the global scale waits for the epilogue
};
static_assert(sizeof(Fp4Block) == 24);

struct Int16Block {
  int8_t hi[16];
  int8_t lo[16];
  int32_t start;
};
static_assert(sizeof(Int16Block) == 36);

/// How a row of activations is stored.
enum class RowFormat { kFp4, kInt16, kFloat };

constexpr int64_t padded_inputs(int64_t k) { return round_up(k, kUnitInputs); }
constexpr int64_t blocks_of(int64_t k) { return padded_inputs(k) / kBlock; }

/// Rows this far apart meet in the same few sets of an L1 cache (8 or 12 ways of 4 KiB) and throw
/// each other out when a tile of tokens walks along them.
constexpr bool aliases_in_l1(int64_t stride_bytes) { return stride_bytes % 2048 == 0; }

/// Bytes of an activation row, a multiple of 64. Int16 rows end with one float per group; they
/// start at blocks_of(k) * sizeof(Int16Block).
constexpr int64_t row_bytes(RowFormat format, int64_t k) {
  switch (format) {
    case RowFormat::kFp4:
      return round_up(blocks_of(k) * static_cast<int64_t>(sizeof(Fp4Block)), 64);
    case RowFormat::kInt16:
      return round_up(blocks_of(k) * static_cast<int64_t>(sizeof(Int16Block)) +
                          ceil_div(padded_inputs(k), kInt16Group) * 4,
                      64);
    case RowFormat::kFloat: {
      const int64_t bytes = round_up(padded_inputs(k) * 4, 64);
      return aliases_in_l1(bytes) ? bytes + 512 : bytes;
    }
  }
  return 0;
}

}  // namespace moe4::cpu
