// One warp's step: m16 or m32 rows of weights times 256 columns times 8 tokens, straight from
// global memory. Every fragment register is refilled for the next step right after its last use, so
// that a step's worth of weights (2304 bytes an m16 tile) is always in flight per warp.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "experts/device/decode.cuh"
#include "experts/device/memory.cuh"

namespace moe4::cuda {

/// What a step reads. `row` belongs to this lane: the activations of token lane / 4, or null.
struct StepSource {
  const uint8_t* weights = nullptr;    ///< packed units
  const __nv_bfloat16* row = nullptr;  ///< start of the token's row
  int column = 0;                      ///< of the step's first weight, multiple of 256
  bool valid = false;                  ///< there is such a step
};

/// A column of B without a token keeps whatever was there: its sums are never stored, and no column
/// of a product depends on another.
template <int kTiles>
struct StepFragments {
  uint4 words[kTiles][kChunks];
  uint2 scales[kTiles];
  uint4 b[kChunks][2];
};

/// The lane's constants of all steps.
struct StepLane {
  int lane;
  int last_block;  ///< K - 16
};

template <int kTiles>
__device__ __forceinline__ void load_scales(const StepSource& from, StepLane at,
                                            uint2 (&scales)[kTiles]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    load_streaming8_if(from.valid,
                       from.weights + tile * kUnitBytes + kUnitScaleOffset + at.lane * 8,
                       scales[tile]);
  }
}

__device__ __forceinline__ void load_words(const StepSource& from, StepLane at, int tile, int chunk,
                                           uint4& words) {
  load_streaming16_if(from.valid, from.weights + tile * kUnitBytes + chunk * 512 + at.lane * 16,
                      words);
}

/// The 16 activations that meet this lane's block of a chunk. Past K the weights are zero and any
/// finite activation will do: the row's last block, so that only a row's own NaN or infinity meets
/// them.
__device__ __forceinline__ void load_activations(const StepSource& from, StepLane at, bool needed,
                                                 int chunk, uint4 (&b)[2]) {
  const int column = min(from.column + chunk * kChunkK + (at.lane & 3) * 16, at.last_block);
  const bool load = needed && from.row != nullptr;
  load_cached16_if(load, from.row + column, b[0]);
  load_cached16_if(load, from.row + column + 8, b[1]);
}

template <int kTiles>
__device__ __forceinline__ void load_step_weights(StepFragments<kTiles>& f, const StepSource& from,
                                                  StepLane at) {
  load_scales(from, at, f.scales);
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
      load_words(from, at, tile, chunk, f.words[tile][chunk]);
  }
}

template <int kTiles>
__device__ __forceinline__ void load_step_activations(StepFragments<kTiles>& f,
                                                      const StepSource& from, StepLane at) {
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    load_activations(from, at, from.valid, chunk, f.b[chunk]);
  }
}

template <int kChunk, int kTiles>
__device__ __forceinline__ void multiply_chunk(StepFragments<kTiles>& f, float (&acc)[kTiles][4],
                                               const StepSource& next, bool refill_activations,
                                               StepLane at) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const uint4 b0 = f.b[kChunk][0], b1 = f.b[kChunk][1];
    uint32_t scale_g, scale_g8, a[16];
    decode_scales<kChunk>(f.scales[tile], scale_g, scale_g8);
    decode_chunk(f.words[tile][kChunk], scale_g, scale_g8, a);
    load_words(next, at, tile, kChunk, f.words[tile][kChunk]);
    mma_m16n8k16(acc[tile], a, b0.x, b0.y);
    mma_m16n8k16(acc[tile], a + 4, b0.z, b0.w);
    mma_m16n8k16(acc[tile], a + 8, b1.x, b1.y);
    mma_m16n8k16(acc[tile], a + 12, b1.z, b1.w);
  }
  load_activations(next, at, refill_activations, kChunk, f.b[kChunk]);
}

/// acc += weights times activations of the step in `f`, in ascending k; then `f` holds `next`. With
/// `refill_activations` false the same activations serve `next` too.
template <int kTiles>
__device__ __forceinline__ void multiply_step(StepFragments<kTiles>& f, float (&acc)[kTiles][4],
                                              const StepSource& next, bool refill_activations,
                                              StepLane at) {
  uint2 next_scales[kTiles] = {};
  load_scales(next, at, next_scales);
  multiply_chunk<0>(f, acc, next, refill_activations, at);
  multiply_chunk<1>(f, acc, next, refill_activations, at);
  multiply_chunk<2>(f, acc, next, refill_activations, at);
  multiply_chunk<3>(f, acc, next, refill_activations, at);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) f.scales[tile] = next_scales[tile];
}

}  // namespace moe4::cuda
