// How a GPU holds the linears of a group: panels, the rows of all members whose weights are of one
// kind.
//
// Columns come in chunks of 64, the last one filled up with zeros. In a chunk, thread t of a quad
// owns columns 16t .. 16t + 15: as fragments of four mma.m16n8k16 these need no order of their own
// as long as weights and tokens agree, so weights keep the file's order and a thread reads 16
// neighbours at once (ops/linear/cuda/fragments.cuh).
#pragma once

#include <cstdint>

#include "numerics/host_device.h"
#include "ops/rows.h"

namespace moe4::cuda {

inline constexpr int kMaxMembers = 8;
/// A token of so many inputs fits the shared memory of every GPU from SM80 on.
inline constexpr int64_t kMaxInputs = 24576;

enum class PanelKind : uint8_t {
  kBf16,      ///< rows of BF16, 64-column chunks of 128 bytes; F16 and F32 in two and three parts
  kFp8,       ///< rows of E4M3, each four of them a pack_e4m3(); one scale a row
  kFp8Block,  ///< the same, one scale for each 16 rows and 128 columns
  kNvfp4,     ///< tiles of 16 rows: for each chunk the words and scales of PackedBlock, 576 bytes
  kMxfp4,     ///< the same; scales are exponents
};
inline constexpr int kPanelKinds = 5;
inline constexpr int kMaxPanels = 7;  ///< kinds, and BF16 in one, two and three parts

inline constexpr int kPanelTileRows = 16;
inline constexpr int kPanelChunk = 64;  ///< columns

/// Bytes of 16 rows of a chunk.
MOE4_HOST_DEVICE constexpr int tile_chunk_bytes(PanelKind kind) {
  switch (kind) {
    case PanelKind::kBf16:
      return 2048;
    case PanelKind::kFp8:
    case PanelKind::kFp8Block:
      return 1024;
    default:
      return 576;
  }
}
/// The weights come in tiles of 16 rows, not in rows.
MOE4_HOST_DEVICE constexpr bool is_tiled(PanelKind kind) {
  return kind == PanelKind::kNvfp4 || kind == PanelKind::kMxfp4;
}
/// Four E4M3 codes, the first in the lowest byte -> the word that panels hold instead, whose half h
/// has codes h and 2 + h. The first lies as in a BF16 number, sign at bit 15 and the rest at 10..4;
/// the second has its sign at 11, its high three bits of the rest at 14..12, its low four at 3..0.
MOE4_HOST_DEVICE constexpr uint32_t pack_e4m3(uint32_t codes) {
  uint32_t word = 0;
  for (int h = 0; h < 2; ++h) {
    const uint32_t first = codes >> 8 * h & 0xff, second = codes >> (16 + 8 * h) & 0xff;
    const uint32_t half = (first & 0x80) << 8 | (first & 0x7f) << 4 | (second & 0x80) << 4 |
                          (second & 0x70) << 8 | (second & 0x0f);
    word |= half << 16 * h;
  }
  return word;
}
/// Code `i` of a pack_e4m3().
MOE4_HOST_DEVICE constexpr uint8_t packed_e4m3(uint32_t word, int i) {
  const uint32_t half = word >> 16 * (i % 2);
  return static_cast<uint8_t>(i < 2 ? (half >> 8 & 0x80) | (half >> 4 & 0x7f)
                                    : (half >> 4 & 0x80) | (half >> 8 & 0x70) | (half & 0x0f));
}
/// Chunks of a unit: about 2 KB of a tile of 16 rows.
MOE4_HOST_DEVICE constexpr int unit_chunks(PanelKind kind) {
  return tile_chunk_bytes(kind) >= 2048 ? 1 : tile_chunk_bytes(kind) >= 1024 ? 2 : 4;
}
/// The order of sums of generated tokens: a row's units fall into so many shares, share i being
/// units [units i / shares, units (i + 1) / shares). In a share the first and the second halves of
/// all chunks are two chains in ascending order (kFp8Block: of each unit, scaled, then added);
/// their sums are added, then those of the shares in order.
MOE4_HOST_DEVICE constexpr int decode_shares(int units) {
  return units >= 8 ? 8 : units >= 4 ? 4 : units >= 2 ? 2 : 1;
}
/// Members begin at a multiple of so many rows.
constexpr int64_t member_rows_multiple(PanelKind kind) {
  return is_tiled(kind) || kind == PanelKind::kFp8Block ? kPanelTileRows : 1;
}

/// The rows of a panel; pointers to device memory.
struct Panel {
  PanelKind kind = PanelKind::kBf16;
  int32_t rows = 0;      ///< those between members included, which are of no meaning
  int32_t chunks = 0;    ///< of a row
  int32_t x_chunks = 0;  ///< of a token: chunk c of a row meets chunk c % x_chunks
  const uint8_t* weights = nullptr;
  const float* row_scale = nullptr;    ///< [rows]: of the sums
  const float* bias = nullptr;         ///< [rows]
  const float* block_scale = nullptr;  ///< kFp8Block: [rows / 16, ceil(chunks / 2)]

  /// Where 16 rows from `row` (a row of 64 columns, for kinds in rows) begin.
  MOE4_HOST_DEVICE const uint8_t* chunk(int64_t row, int64_t c) const {
    const int bytes = tile_chunk_bytes(kind);
    return is_tiled(kind) ? weights + (row / kPanelTileRows * chunks + c) * bytes
                          : weights + (row * chunks + c) * (bytes / kPanelTileRows);
  }
};

/// Where the rows of a member go.
struct PanelMember {
  int32_t panel = 0;
  int32_t first_row = 0;  ///< in the panel
  int32_t rows = 0;
};

}  // namespace moe4::cuda
