// Weights in shared memory -> A fragments of mma.m16n8k16, exactly, for every kind of panel.
//
// Fragments of half a chunk (two mma): thread 4g + t takes elements 8 half .. 8 half + 7 of its 16
// columns of rows g and g + 8, mma m of the chunk elements 4m .. 4m + 3. The B operand of token g
// is then the same 16 columns of its row: 16 contiguous bytes a half, registers x, y for the first
// mma and z, w for the second.
#pragma once

#include <cstdint>

#include "ops/experts/gpu/decode.cuh"
#include "ops/linear/cuda/panel.h"

namespace moe4::cuda {

/// Codes 2i and 2i + 1 of a word of four, pack_e4m3(), as bf16x2, exactly. As bits of a BF16
/// number, exponent and mantissa of E4M3 are worth 2^-120 of it, subnormal or not. Decoding is
/// bound by logic instructions: one mask for the first pair, two shifts and two masks for the
/// second.
template <int i>
__device__ __forceinline__ uint32_t e4m3_pair(uint32_t word) {
  const uint32_t bits =
      i == 0 ? word & 0x87f087f0u : ((word << 4) & 0x80f080f0u) | ((word >> 4) & 0x07000700u);
  return multiply_bf16x2(bits, 0x7b807b80u);
}

/// A chunk of 16 rows as it lies in shared memory.
template <PanelKind kKind>
struct TileChunk;

/// [16][128 bytes], pieces of 16 bytes swapped in odd rows so that neighbouring rows use other
/// banks.
template <>
struct TileChunk<PanelKind::kBf16> {
  __device__ static int piece_at(int row, int piece) {
    return row * 128 + (piece ^ (row & 1)) * 16;
  }
  template <int kHalf>
  __device__ __forceinline__ static void load(const uint8_t* chunk, int lane, uint32_t (&a)[8]) {
    const int g = lane / 4, piece = lane % 4 * 2 + kHalf;
    const uint4 low = *reinterpret_cast<const uint4*>(chunk + piece_at(g, piece));
    const uint4 high = *reinterpret_cast<const uint4*>(chunk + piece_at(g + 8, piece));
    a[0] = low.x, a[1] = high.x, a[2] = low.y, a[3] = high.y;
    a[4] = low.z, a[5] = high.z, a[6] = low.w, a[7] = high.w;
  }
};

/// [16][64 bytes].
template <>
struct TileChunk<PanelKind::kFp8> {
  __device__ static int piece_at(int row, int piece) { return row * 64 + piece * 16; }
  template <int kHalf>
  __device__ __forceinline__ static void load(const uint8_t* chunk, int lane, uint32_t (&a)[8]) {
    const int g = lane / 4, t = lane % 4;
    const uint4 low = *reinterpret_cast<const uint4*>(chunk + piece_at(g, t));
    const uint4 high = *reinterpret_cast<const uint4*>(chunk + piece_at(g + 8, t));
    const uint32_t l0 = kHalf == 0 ? low.x : low.z, l1 = kHalf == 0 ? low.y : low.w;
    const uint32_t h0 = kHalf == 0 ? high.x : high.z, h1 = kHalf == 0 ? high.y : high.w;
    a[0] = e4m3_pair<0>(l0), a[1] = e4m3_pair<0>(h0);
    a[2] = e4m3_pair<1>(l0), a[3] = e4m3_pair<1>(h0);
    a[4] = e4m3_pair<0>(l1), a[5] = e4m3_pair<0>(h1);
    a[6] = e4m3_pair<1>(l1), a[7] = e4m3_pair<1>(h1);
  }
};
template <>
struct TileChunk<PanelKind::kFp8Block> : TileChunk<PanelKind::kFp8> {};

/// Four words a lane, then two scales a lane; weights come out times 2^-20 (kAlphaScale).
template <WeightFormat kFormat>
struct Fp4TileChunk {
  template <int kHalf>
  __device__ __forceinline__ static void load(const uint8_t* chunk, int lane, uint32_t (&a)[8]) {
    const uint4 words = *reinterpret_cast<const uint4*>(chunk + lane * 16);
    const uint32_t bytes = *reinterpret_cast<const uint16_t*>(chunk + 512 + lane * 2);
    const uint32_t scales = decode_scales<kFormat, 0>(make_uint2(bytes, 0));
    decode_pairs(kHalf == 0 ? words.x : words.z, kHalf == 0 ? words.y : words.w, scales, a);
  }
};
template <>
struct TileChunk<PanelKind::kNvfp4> : Fp4TileChunk<WeightFormat::kNvfp4> {};
template <>
struct TileChunk<PanelKind::kMxfp4> : Fp4TileChunk<WeightFormat::kMxfp4> {};

}  // namespace moe4::cuda
