// How b12x stores operands: each lane's fragments of the block-scaled FP4 mma are contiguous.
//
// The instruction (PTX ISA, mma.m16n8k64 with .kind::mxf4nvf4.block_scale.scale_vec::4X) multiplies
// A [16 x 64] and B [64 x 8] of E2M1 with one UE4M3 scale for each 16 columns of a row of A and
// each 16 rows of a column of B. With lane = 4g + t, nibble i of a register holds
//
//   a0, a1: row g, g + 8   k = 8t + i        b0: column g, k = 8t + i
//   a2, a3: row g, g + 8   k = 8t + i + 32   b1: column g, k = 8t + i + 32
//   d0, d1: row g, columns 2t, 2t + 1        d2, d3: row g + 8
//
// and byte b of a scale register belongs to k = 16b .. 16b + 15. Thread-id selectors pick who
// brings the scales: for A with thread-id s in {0, 1} lane 4g + 2s has those of row g, lane
// 4g + 2s + 1 those of row g + 8; for B with thread-id s in 0 .. 3 lane 4g + s has those of column
// g. Both selectors are used, so that no lane's scale register is wasted.
//
// *Weights* (A). A matrix [rows, K] is cut into m32 tiles of two m16 halves. In FC1 of a gated
// activation half 0 is gate rows 16j .. 16j + 15 and half 1 the same rows of up: gate and up of an
// element are the same accumulator of the same lane, and the 16 rows of a half are one NVFP4 block
// of the intermediate. Elsewhere the halves are rows 32j + 16h + 0 .. 15. A tile and 64 columns are
// one *chunk* of 1152 bytes:
//
//   byte h * 512 + lane * 16   a0 .. a3 of half h: one 16-byte load
//   byte 1024 + lane * 4       scale register: lane 4g + 2h + r has row g + 8r of half h, so half h
//                              is multiplied with thread-id-a = h
//
// The chunks of a tile are contiguous, the tiles of an expert follow each other. Rows past the end
// and columns past K are zero codes with zero scales; K is padded to 64, rows to 32.
//
// *Activations* (B). A row of FP4 activations has 32 bytes of codes a chunk: lane t reads 8 bytes,
// b0 and b1, at byte 8t. Its scales are a separate row of 4 bytes a chunk: lane t of a quad loads
// those of chunk t of a slice of four chunks, and chunk c is multiplied with thread-id-b = c.
//
// The product does not care which k sits in which slot as long as both operands agree and blocks
// stay whole, so word w of a chunk holds elements 8w .. 8w + 7 with element j in nibble
// j / 2 + 4 * (j % 2): the two elements of a checkpoint byte are 16 bits apart. That costs FP4
// nothing and gives the BF16 mode its bf16x2 pairs with one shift each.
#pragma once

#include <cstdint>

#include "base/checked_math.h"
#include "moe/problem.h"
#include "numerics/host_device.h"

namespace moe4::b12x {

inline constexpr int kTileRows = 32;
inline constexpr int kHalfRows = 16;
inline constexpr int kChunkK = 64;
inline constexpr int kChunkBytes = 1152;
inline constexpr int kChunkScaleOffset = 1024;
inline constexpr int kBlock = 16;  ///< values that share a scale
inline constexpr int kBlocksPerChunk = kChunkK / kBlock;
inline constexpr int kTokenChunkBytes = kChunkK / 2;  ///< codes of an activation row
/// K is summed in slices of 256: float32 inside a slice, then slice after slice. Fixed, so that a
/// token's bits do not depend on how a launch spreads the slices over warps.
inline constexpr int kSliceChunks = 4;

/// A packed matrix of each of several experts.
struct PackedMatrix {
  bool gated = false;  ///< halves are gate and up
  int64_t rows = 0;    ///< of one operand: I for FC1 (gate and up apart), H for FC2
  int64_t k = 0;       ///< multiple of 16
  int64_t tiles = 0;   ///< m32 tiles of an expert
  int64_t chunks = 0;  ///< ceil(k / 64)

  int64_t slices() const { return ceil_div(chunks, kSliceChunks); }
  int64_t expert_bytes() const { return tiles * chunks * kChunkBytes; }
};

/// FC1's rows are padded to 64, FC2's K, so that FC1 also writes the zeros of the padding.
inline PackedMatrix fc1_matrix(const MoeProblem& problem) {
  const bool gated = problem.activation.is_gated();
  const int64_t padded = round_up(problem.intermediate_size, kChunkK);
  return {.gated = gated,
          .rows = problem.intermediate_size,
          .k = problem.hidden_size,
          .tiles = padded / (gated ? kHalfRows : kTileRows),
          .chunks = ceil_div(problem.hidden_size, kChunkK)};
}
inline PackedMatrix fc2_matrix(const MoeProblem& problem) {
  return {.gated = false,
          .rows = problem.hidden_size,
          .k = problem.intermediate_size,
          .tiles = ceil_div(problem.hidden_size, kTileRows),
          .chunks = ceil_div(problem.intermediate_size, kChunkK)};
}

/// Byte offset of a chunk from the first expert's first byte.
MOE4_HOST_DEVICE constexpr int64_t chunk_offset(int64_t tiles, int64_t chunks, int64_t expert,
                                                int64_t tile, int64_t chunk) {
  return ((expert * tiles + tile) * chunks + chunk) * kChunkBytes;
}
/// Where a lane's registers a0 .. a3 of a half lie in a chunk.
MOE4_HOST_DEVICE constexpr int weight_codes_offset(int half, int lane) {
  return half * 512 + lane * 16;
}
/// Where a lane's scale register, which serves both halves, lies in a chunk.
MOE4_HOST_DEVICE constexpr int weight_scales_offset(int lane) {
  return kChunkScaleOffset + lane * 4;
}
/// Where lane t of a quad finds b0 and b1 of a chunk in an activation row's codes.
MOE4_HOST_DEVICE constexpr int64_t token_codes_offset(int64_t chunk, int t) {
  return chunk * kTokenChunkBytes + t * 8;
}
/// Byte offset of word w (elements 8w .. 8w + 7 of a chunk) in an activation row's codes.
MOE4_HOST_DEVICE constexpr int64_t token_word_offset(int64_t chunk, int w) {
  return token_codes_offset(chunk, w & 3) + (w >> 2) * 4;
}
/// Bytes of an activation row's scales, whole 16-byte slices.
MOE4_HOST_DEVICE constexpr int64_t token_scale_bytes(int64_t chunks) {
  return (chunks + kSliceChunks - 1) / kSliceChunks * (kSliceChunks * kBlocksPerChunk);
}

/// Bit position of element j (0 .. 7) of a word.
MOE4_HOST_DEVICE constexpr int element_shift(int j) { return 4 * (j >> 1) + 16 * (j & 1); }

/// Four checkpoint bytes (low nibble first) -> one word.
MOE4_HOST_DEVICE constexpr uint32_t pack_word(const uint8_t* codes) {
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) {
    word |= static_cast<uint32_t>(codes[i] & 15) << element_shift(2 * i);
    word |= static_cast<uint32_t>(codes[i] >> 4) << element_shift(2 * i + 1);
  }
  return word;
}

}  // namespace moe4::b12x
