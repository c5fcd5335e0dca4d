// The offline layout of NVFP4 and MXFP4 weights that the BF16 kernels stream on a GPU, exact to the
// bit.
//
// A matrix [rows, K] is cut into m16 tiles; a tile and 256 columns make one *unit* of 2304 bytes
// (MXFP4 2176), which one warp turns into the A operands of 16 `mma.m16n8k16`:
//
//   byte c * 512 + lane * 16   four words: the codes of chunk c (64 columns) that `lane` owns
//   byte 2048 + lane * 8 + 2c  scale of row g, then of row g + 8, for that lane and chunk; MXFP4:
//        2048 + lane/2 * 8 + 2c, since lanes t and t ^ 1 own the halves of a block of 32
//
// with lane = 4g + t. A lane owns whole blocks of 16: block 16 ku + 4c + t of rows g and g + 8, so
// two scales serve its 32 codes. mma `m` of a chunk takes elements 4m .. 4m+3 of each of the four
// blocks (the product does not care which k sits in which slot), so the B operand of a token is 32
// contiguous bytes: the 16 activations of the lane's block, registers r[0..7], mma m takes r[2m]
// and r[2m + 1].
//
// Unit (e, tile, ku) lies at index ((e * tiles / 2 + tile / 2) * k_units + ku) * 2 + (tile & 1):
// the units of two neighbouring tiles are adjacent, an m32 x k256 step is 4608 (4352) contiguous
// bytes.
//
// Rows of a tile: 16j .. 16j+15 (kPlain), or gate rows 8j .. 8j+7 above up rows 8j .. 8j+7
// (kGateUp), so that a thread's accumulators c0, c2 are the gate and the up of one element.
// Rows past the end and columns past K hold zero codes. K and rows are multiples of 16.
//
// Codes. A bf16 with a code's sign in bit 15 and its magnitude in bits 8..6 is code * 2^-126 (code
// 1, i.e. 0.5, is the subnormal). Eight such pairs are spread over two words so that each comes out
// with at most one shift and one AND (extract_pairs). Scales are re-coded from E4M3 to an unsigned
// 5-bit exponent and 3-bit mantissa: byte = (x + 9) << 3 | mantissa for 2^x (1 + mantissa / 8),
// x = -9 .. 8; byte * 16 + 0x7000 is the bf16 scale * 2^106. The product is weight * 2^-20, exact;
// 2^20 goes into the float32 alpha (kAlphaScale). A zero scale zeroes its codes; a negative scale
// flips their signs.
//
// MXFP4's scale bytes are exponents already: byte * 128 is the bf16 2^(byte - 127). They are stored
// shifted by as much as brings 2^106 times the scale, so that the product is weight * 2^-20 here
// too: a scale byte of 22 to 148. Where a matrix has others, all of it is shifted by another number
// (kExponentWindow: products stay normal bf16), which its alpha takes back (exponent_alpha).
#pragma once

#include <cmath>
#include <cstdint>

#include "base/checked_math.h"
#include "moe/mxfp4_exponents.h"
#include "moe/problem.h"
#include "numerics/host_device.h"

namespace moe4::cuda {

inline constexpr int kTileRows = 16;
inline constexpr int kUnitK = 256;
inline constexpr int kChunkK = 64;
inline constexpr int kChunks = kUnitK / kChunkK;
inline constexpr int kUnitScaleOffset = 2048;
inline constexpr float kAlphaScale = 0x1p20f;

enum class WeightFormat { kNvfp4, kMxfp4 };

/// Bytes of a unit.
template <WeightFormat Format>
struct UnitLayout {
  static constexpr bool kMxfp4 = Format == WeightFormat::kMxfp4;
  static constexpr int kBytes = kUnitScaleOffset + (kMxfp4 ? 128 : 256);
  static constexpr int kStepBytes = 2 * kBytes;  ///< m32 x k256
  /// Of a lane's 8 bytes of scales.
  MOE4_HOST_DEVICE static constexpr int scales(int lane) {
    return kUnitScaleOffset + (kMxfp4 ? lane / 2 : lane) * 8;
  }
};
constexpr int unit_bytes(WeightFormat format) {
  return format == WeightFormat::kMxfp4 ? UnitLayout<WeightFormat::kMxfp4>::kBytes
                                        : UnitLayout<WeightFormat::kNvfp4>::kBytes;
}

/// Stored MXFP4 exponents: code * 2^-126 * 2^(byte - 127) is a normal bf16 from 128 on.
inline constexpr ExponentWindow kExponentWindow{.least = 128, .most = 254, .preferred_shift = 106};
/// What brings products of exponents with this shift to their size: 2^20 for the preferred one.
inline float exponent_alpha(int shift) { return std::ldexp(1.0f, 126 - shift); }

enum class RowOrder {
  kPlain,   ///< tile row r is row 16 j + r
  kGateUp,  ///< tile rows 0-7 are gate rows 8 j + r, rows 8-15 up rows 8 j + r - 8
};

/// A packed matrix of each of several experts.
struct PackedShape {
  WeightFormat format = WeightFormat::kNvfp4;
  RowOrder order = RowOrder::kPlain;
  int64_t rows = 0;     ///< of one operand: I for FC1 (gate and up apart), H for FC2
  int64_t k = 0;        ///< multiple of 16 (MXFP4 32)
  int64_t tiles = 0;    ///< m16 tiles of an expert, even
  int64_t k_units = 0;  ///< ceil(k / 256)

  int64_t expert_bytes() const { return tiles * k_units * unit_bytes(format); }
};

constexpr PackedShape packed_shape(WeightFormat format, RowOrder order, int64_t rows, int64_t k) {
  const int64_t rows_per_tile = order == RowOrder::kGateUp ? kTileRows / 2 : kTileRows;
  return {format, order, rows, k, round_up(ceil_div(rows, rows_per_tile), 2), ceil_div(k, kUnitK)};
}

/// FC1: K = H; gate and up interleaved when the activation is gated.
inline PackedShape fc1_shape(WeightFormat format, const MoeProblem& problem) {
  return packed_shape(format, problem.activation.is_gated() ? RowOrder::kGateUp : RowOrder::kPlain,
                      problem.intermediate_size, problem.hidden_size);
}
/// FC2: K = I.
inline PackedShape fc2_shape(WeightFormat format, const MoeProblem& problem) {
  return packed_shape(format, RowOrder::kPlain, problem.hidden_size, problem.intermediate_size);
}

/// Number of a unit, from the first expert's first.
MOE4_HOST_DEVICE constexpr int64_t unit_index(int64_t tiles, int64_t k_units, int64_t expert,
                                              int64_t tile, int64_t ku) {
  return ((expert * (tiles / 2) + tile / 2) * k_units + ku) * 2 + (tile & 1);
}

// Where sign and magnitude of the two codes of a pair sit once it is shifted into place.
inline constexpr uint32_t kPairMask = 0x81C081C0u;
// Pairs 6 and 7 use the bits of word 0 that this mask selects and the others of word 1.
inline constexpr uint32_t kSplitMask = 0x60306030u;

MOE4_HOST_DEVICE constexpr uint32_t rotate_right(uint32_t x, int s) {
  return (x >> s) | (x << ((32 - s) & 31));
}

/// Pairs 6 and 7 out of two code words: one instruction, which nvcc does not find by itself.
MOE4_HOST_DEVICE constexpr uint32_t split_pairs(uint32_t w0, uint32_t w1) {
#ifdef __CUDA_ARCH__
  uint32_t split = 0;
  asm("lop3.b32 %0, %1, %2, %3, 0xe4;" : "=r"(split) : "r"(w0), "r"(w1), "n"(kSplitMask));
  return split;
#else
  return (w0 & kSplitMask) | (w1 & ~kSplitMask);
#endif
}

/// As the language has it; what extract_pairs() uses unless told otherwise.
struct ShiftLeft {
  MOE4_HOST_DEVICE constexpr uint32_t operator()(uint32_t x, int bits) const { return x << bits; }
};

/// Two code words -> eight bf16x2 pairs, each code * 2^-126: the registers a0 .. a3 of one mma,
/// then those of the next. `shift_left` by 2, 4 and 6 bits, for who has a quicker way.
template <class Shift = ShiftLeft>
MOE4_HOST_DEVICE constexpr void extract_pairs(uint32_t w0, uint32_t w1, uint32_t* a,
                                              Shift shift_left = {}) {
  const uint32_t split = split_pairs(w0, w1);
  a[0] = w0 & kPairMask;
  a[1] = rotate_right(w0, 4) & kPairMask;
  a[2] = shift_left(w0, 6) & kPairMask;
  a[3] = rotate_right(split, 8) & kPairMask;
  a[4] = rotate_right(w1, 2) & kPairMask;
  a[5] = rotate_right(w1, 6) & kPairMask;
  a[6] = shift_left(w1, 4) & kPairMask;
  a[7] = shift_left(split, 2) & kPairMask;
}

/// The two codes of a checkpoint byte as the pair extract_pairs() yields, before it is shifted.
MOE4_HOST_DEVICE constexpr uint32_t spread_codes(uint32_t byte) {
  const uint32_t low = byte & 15, high = (byte >> 4) & 15;
  return ((low & 7) << 6) | ((low & 8) << 12) | ((high & 7) << 22) | ((high & 8) << 28);
}

/// One block of 16 codes of row g and of row g + 8 (8 checkpoint bytes each, low nibble first)
/// -> the four words of a lane in a chunk.
MOE4_HOST_DEVICE constexpr void pack_codes(const uint8_t* row_g, const uint8_t* row_g8,
                                           uint32_t* words) {
  for (int half = 0; half < 2; ++half) {
    // Registers of mma 2 * half, then of mma 2 * half + 1: a0, a1, a2, a3.
    const uint8_t* low = row_g + 4 * half;
    const uint8_t* high = row_g8 + 4 * half;
    const uint32_t p0 = spread_codes(low[0]);
    const uint32_t p1 = rotate_right(spread_codes(high[0]), 28);
    const uint32_t p2 = rotate_right(spread_codes(low[1]), 6);
    const uint32_t p6 = rotate_right(spread_codes(high[1]), 24);
    const uint32_t p3 = rotate_right(spread_codes(low[2]), 30);
    const uint32_t p4 = rotate_right(spread_codes(high[2]), 26);
    const uint32_t p5 = rotate_right(spread_codes(low[3]), 4);
    const uint32_t p7 = rotate_right(spread_codes(high[3]), 2);
    const uint32_t split = p6 | p7;
    words[2 * half] = p0 | p1 | p2 | (split & kSplitMask);
    words[2 * half + 1] = p3 | p4 | p5 | (split & ~kSplitMask);
  }
}

/// A finite, non-zero E4M3 byte (sign ignored) -> the scale byte of this layout.
MOE4_HOST_DEVICE constexpr uint8_t recode_scale(uint8_t e4m3) {
  uint32_t exponent = (e4m3 >> 3) & 15, mantissa = e4m3 & 7;
  if (exponent != 0) return static_cast<uint8_t>(((exponent + 2) << 3) | mantissa);
  // Subnormal mantissa * 2^-9: normalise to 2^x (1 + m / 8), x = -9 .. -7.
  uint32_t x = 2;  // x + 9
  while (!(mantissa & 4)) {
    mantissa <<= 1;
    --x;
  }
  return static_cast<uint8_t>((x << 3) | ((mantissa << 1) & 7));
}

/// One lane's share of a chunk: codes and scales of rows g and g + 8.
struct PackedBlock {
  uint32_t words[4];
  uint8_t scales[2];
};

/// NVFP4. Null pointers stand for padding. The scale bytes must not be NaN.
MOE4_HOST_DEVICE constexpr PackedBlock pack_nvfp4_block(const uint8_t* codes_g, uint8_t scale_g,
                                                        const uint8_t* codes_g8, uint8_t scale_g8) {
  uint8_t rows[2][8] = {};
  PackedBlock block{};
  for (int r = 0; r < 2; ++r) {
    const uint8_t* codes = r == 0 ? codes_g : codes_g8;
    const uint8_t scale = r == 0 ? scale_g : scale_g8;
    if (codes == nullptr || (scale & 0x7f) == 0) continue;
    const uint8_t flip = (scale & 0x80) != 0 ? 0x88 : 0;
    for (int i = 0; i < 8; ++i) rows[r][i] = codes[i] ^ flip;
    block.scales[r] = recode_scale(scale);
  }
  pack_codes(rows[0], rows[1], block.words);
  return block;
}

/// MXFP4, half a block of 32 of each row, and its exponents shifted by `shifts`.
MOE4_HOST_DEVICE constexpr PackedBlock pack_mxfp4_block(const uint8_t* codes_g, uint8_t scale_g,
                                                        int shift_g, const uint8_t* codes_g8,
                                                        uint8_t scale_g8, int shift_g8) {
  constexpr uint8_t kZeros[8] = {};
  PackedBlock block{};
  if (codes_g != nullptr) block.scales[0] = shifted_exponent(scale_g, shift_g);
  if (codes_g8 != nullptr) block.scales[1] = shifted_exponent(scale_g8, shift_g8);
  pack_codes(codes_g != nullptr ? codes_g : kZeros, codes_g8 != nullptr ? codes_g8 : kZeros,
             block.words);
  return block;
}

/// Rows of one operand as the checkpoint has them: 8 bytes of codes for each 16 columns and one
/// scale byte for each 16 (MXFP4 32). Host or device pointers.
struct CodeRows {
  const uint8_t* codes = nullptr;
  int64_t code_stride = 0;  ///< bytes between rows
  const uint8_t* scales = nullptr;
  int64_t scale_stride = 0;
  int exponent_shift = 0;  ///< MXFP4
};

/// What lane `lane` owns of chunk `c` of unit (tile, ku). kGateUp reads both operands, kPlain only
/// `first`.
MOE4_HOST_DEVICE constexpr PackedBlock pack_lane(const PackedShape& shape, const CodeRows& first,
                                                 const CodeRows& up, int64_t tile, int64_t ku,
                                                 int lane, int c) {
  const bool mxfp4 = shape.format == WeightFormat::kMxfp4;
  const uint8_t* codes[2] = {nullptr, nullptr};
  uint8_t scales[2] = {0, 0};
  int shifts[2] = {0, 0};
  const int64_t b = ku * 16 + c * 4 + lane % 4;
  for (int r = 0; r < 2; ++r) {
    const bool gate_up = shape.order == RowOrder::kGateUp;
    const int64_t row = gate_up ? tile * 8 + lane / 4 : tile * kTileRows + lane / 4 + 8 * r;
    if (row >= shape.rows || b >= shape.k / 16) continue;
    const CodeRows& rows = gate_up && r == 1 ? up : first;
    codes[r] = rows.codes + row * rows.code_stride + b * 8;
    scales[r] = rows.scales[row * rows.scale_stride + (mxfp4 ? b / 2 : b)];
    shifts[r] = rows.exponent_shift;
  }
  if (mxfp4) {
    return pack_mxfp4_block(codes[0], scales[0], shifts[0], codes[1], scales[1], shifts[1]);
  }
  return pack_nvfp4_block(codes[0], scales[0], codes[1], scales[1]);
}

}  // namespace moe4::cuda
