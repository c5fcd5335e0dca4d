// The arithmetic of AddNorm's rows on GPUs, for all kernels that make them: they give the same
// bits.
//
// A row belongs to norm_threads() threads, thread i of which has the vectors i, i + threads, ...;
// squares are added over a thread's vectors, then over each warp, then over warps in order.
#pragma once

#include <algorithm>

#include "base/checked_math.h"
#include "ops/cuda/row_vectors.cuh"

namespace moe4::cuda {

inline constexpr int kMaxNormThreads = 512;
inline constexpr int kMaxNormWarps = kMaxNormThreads / 32;

inline int norm_threads(int64_t width) {
  return static_cast<int>(
      std::min<int64_t>(round_up(ceil_div(width, int64_t{kVector}), 32), kMaxNormThreads));
}

/// v = (v + d) * scale; the sum of v's squares.
__device__ __forceinline__ float add_vector(float (&v)[kVector], const float (&d)[kVector],
                                            float scale) {
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    v[i] = (v[i] + d[i]) * scale;
    squares += v[i] * v[i];
  }
  return squares;
}

/// The sum over a warp, for all its lanes.
__device__ __forceinline__ float add_over_warp(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffff, x, offset);
  return x;
}

/// What a row of these squares is multiplied by.
__device__ __forceinline__ float norm_factor(float squares, int width, float eps) {
  return rsqrtf(squares / static_cast<float>(width) + eps);
}

__device__ __forceinline__ void scale_vector(float (&v)[kVector], float factor,
                                             const float (&weight)[kVector]) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) v[i] = v[i] * factor * weight[i];
}

}  // namespace moe4::cuda
