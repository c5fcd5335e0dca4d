// One warp's step: m16 or m32 rows of weights times 256 columns times 8 tokens, straight from
// global memory. Every fragment register is refilled for the next step right after its last use, so
// that a step's worth of weights (2304 bytes an m16 tile) is always in flight per warp.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "experts/device/decode.cuh"
#include "experts/device/memory.cuh"

namespace moe4::cuda {

/// What a step reads. `row` belongs to this lane: activations of token lane / 4, or null for none.
struct StepSource {
  const uint8_t* weights = nullptr;    ///< packed units; null: no such step
  const __nv_bfloat16* row = nullptr;  ///< start of the token's row
  int column = 0;                      ///< of the step's first weight, multiple of 256
};

template <int kTiles>
struct StepFragments {
  uint4 words[kTiles][kChunks];
  uint2 scales[kTiles];
  uint4 b[kChunks][2];
};

template <int kTiles>
__device__ __forceinline__ void load_scales(const StepSource& from, uint2 (&scales)[kTiles]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    scales[tile] = load_streaming8(from.weights + tile * kUnitBytes + kUnitScaleOffset +
                                   (threadIdx.x & 31) * 8);
  }
}

__device__ __forceinline__ uint4 load_words(const StepSource& from, int tile, int chunk) {
  return load_streaming16(from.weights + tile * kUnitBytes + chunk * 512 + (threadIdx.x & 31) * 16);
}

/// The 16 activations that meet this lane's block of a chunk; zeros past `k` and for absent tokens.
__device__ __forceinline__ void load_activations(const StepSource& from, int k, int chunk,
                                                 uint4 (&b)[2]) {
  const int column = from.column + chunk * kChunkK + (threadIdx.x & 3) * 16;
  if (from.row != nullptr && column < k) {
    const auto* block = reinterpret_cast<const uint4*>(from.row + column);
    b[0] = block[0];
    b[1] = block[1];
  } else {
    b[0] = b[1] = make_uint4(0, 0, 0, 0);
  }
}

template <int kTiles>
__device__ __forceinline__ void load_step_weights(StepFragments<kTiles>& f,
                                                  const StepSource& from) {
  load_scales(from, f.scales);
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) f.words[tile][chunk] = load_words(from, tile, chunk);
  }
}

template <int kTiles>
__device__ __forceinline__ void load_step_activations(StepFragments<kTiles>& f,
                                                      const StepSource& from, int k) {
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) load_activations(from, k, chunk, f.b[chunk]);
}

template <int kChunk, int kTiles>
__device__ __forceinline__ void multiply_chunk(StepFragments<kTiles>& f, float (&acc)[kTiles][4],
                                               const StepSource& next, bool refill_activations,
                                               int k) {
  const uint4 b0 = f.b[kChunk][0], b1 = f.b[kChunk][1];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    uint32_t scale_g, scale_g8, a[16];
    decode_scales<kChunk>(f.scales[tile], scale_g, scale_g8);
    decode_chunk(f.words[tile][kChunk], scale_g, scale_g8, a);
    if (next.weights != nullptr) f.words[tile][kChunk] = load_words(next, tile, kChunk);
    mma_m16n8k16(acc[tile], a, b0.x, b0.y);
    mma_m16n8k16(acc[tile], a + 4, b0.z, b0.w);
    mma_m16n8k16(acc[tile], a + 8, b1.x, b1.y);
    mma_m16n8k16(acc[tile], a + 12, b1.z, b1.w);
  }
  if (refill_activations) load_activations(next, k, kChunk, f.b[kChunk]);
}

/// acc += weights times activations of the step in `f`, in ascending k; then `f` holds `next`. With
/// `refill_activations` false the same activations serve `next` too.
template <int kTiles>
__device__ __forceinline__ void multiply_step(StepFragments<kTiles>& f, float (&acc)[kTiles][4],
                                              const StepSource& next, bool refill_activations,
                                              int k) {
  uint2 next_scales[kTiles] = {};
  if (next.weights != nullptr) load_scales(next, next_scales);
  multiply_chunk<0>(f, acc, next, refill_activations, k);
  multiply_chunk<1>(f, acc, next, refill_activations, k);
  multiply_chunk<2>(f, acc, next, refill_activations, k);
  multiply_chunk<3>(f, acc, next, refill_activations, k);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) f.scales[tile] = next_scales[tile];
}

}  // namespace moe4::cuda
