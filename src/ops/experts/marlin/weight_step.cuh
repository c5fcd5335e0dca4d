// One warp's step: m16 or m32 rows of weights (a unit an m16 tile) times 256 columns times 8
// tokens, from registers. Those of a next step may be loaded along: each where it was last used,
// though the compiler collects these loads towards the step's end.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "device/cuda/ptx/memory.cuh"
#include "ops/experts/gpu/decode.cuh"

namespace moe4::cuda {

/// This lane's part of a step's weights.
template <int kTiles>
struct WeightFragments {
  uint4 words[kTiles][kChunks];
  uint2 scales[kTiles];
};

/// This lane's B operands of a step: 16 activations of token lane / 4 for each chunk. A column
/// without a token keeps whatever was there: its sums are never stored, and no column of a product
/// depends on another.
struct TokenFragments {
  uint4 b[kChunks][2];
};

/// Loads `tiles` consecutive m16 tiles from `step`, which must be a step of this warp if `valid`.
template <WeightFormat Format, int kTiles>
__device__ __forceinline__ void load_scales(const uint8_t* step, bool valid, int lane,
                                            uint2 (&scales)[kTiles]) {
  using Unit = UnitLayout<Format>;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    load_streaming8_if(valid, step + tile * Unit::kBytes + Unit::scales(lane), scales[tile]);
  }
}

template <WeightFormat Format, int kTiles>
__device__ __forceinline__ void load_weights(WeightFragments<kTiles>& f, const uint8_t* step,
                                             bool valid, int lane) {
  load_scales<Format>(step, valid, lane, f.scales);
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      load_streaming16_if(valid, step + tile * UnitLayout<Format>::kBytes + chunk * 512 + lane * 16,
                          f.words[tile][chunk]);
    }
  }
}

/// The 16 activations that meet this lane's block of a chunk. Past K the weights are zero and any
/// finite activation will do: the row's last block, so that only a row's own NaN or infinity meets
/// them. A null row is not loaded.
__device__ __forceinline__ void load_chunk_tokens(TokenFragments& tokens, const __nv_bfloat16* row,
                                                  int column, int last_block, int lane, int chunk) {
  const int block = min(column + chunk * kChunkK + (lane & 3) * 16, last_block);
  load_cached16_if(row != nullptr, row + block, tokens.b[chunk][0]);
  load_cached16_if(row != nullptr, row + block + 8, tokens.b[chunk][1]);
}

/// `column` is the step's first, a multiple of 256; `last_block` is K - 16.
__device__ __forceinline__ void load_tokens(TokenFragments& tokens, const __nv_bfloat16* row,
                                            int column, int last_block, int lane) {
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    load_chunk_tokens(tokens, row, column, last_block, lane, chunk);
  }
}

/// acc += weights times tokens of one chunk; the chunk's words then come from the step `next`.
template <WeightFormat Format, int kChunk, int kTiles>
__device__ __forceinline__ void multiply_chunk(WeightFragments<kTiles>& f,
                                               const TokenFragments& tokens,
                                               float (&acc)[kTiles][4], const uint8_t* next,
                                               bool valid, int lane) {
  uint32_t scales[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
    scales[tile] = decode_scales<Format, kChunk>(f.scales[tile]);

    // Tiles in turn, so that a product does not wait for the one before it.
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint4 b = tokens.b[kChunk][half];
    uint32_t a[kTiles][8];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      uint4& words = f.words[tile][kChunk];
      decode_pairs(half == 0 ? words.x : words.z, half == 0 ? words.y : words.w, scales[tile],
                   a[tile]);
      if (half == 1) {
        load_streaming16_if(
            valid, next + tile * UnitLayout<Format>::kBytes + kChunk * 512 + lane * 16, words);
      }
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) mma_m16n8k16(acc[tile], a[tile], b.x, b.y);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) mma_m16n8k16(acc[tile], a[tile] + 4, b.z, b.w);
  }
}

/// acc += weights times tokens of the step in `f`, in ascending k; then `f` holds `next` if
/// `valid`. `refill_tokens(chunk)` is called after a chunk's last use.
template <WeightFormat Format, int kTiles, typename RefillTokens>
__device__ __forceinline__ void multiply_step(WeightFragments<kTiles>& f,
                                              const TokenFragments& tokens, float (&acc)[kTiles][4],
                                              const uint8_t* next, bool valid, int lane,
                                              RefillTokens refill_tokens) {
  uint2 next_scales[kTiles] = {};
  load_scales<Format>(next, valid, lane, next_scales);
  multiply_chunk<Format, 0>(f, tokens, acc, next, valid, lane);
  refill_tokens(0);
  multiply_chunk<Format, 1>(f, tokens, acc, next, valid, lane);
  refill_tokens(1);
  multiply_chunk<Format, 2>(f, tokens, acc, next, valid, lane);
  refill_tokens(2);
  multiply_chunk<Format, 3>(f, tokens, acc, next, valid, lane);
  refill_tokens(3);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) f.scales[tile] = next_scales[tile];
}

}  // namespace moe4::cuda
