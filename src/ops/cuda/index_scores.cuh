// What kernels share that rank cached keys by products with an indexer's queries: 32 F16 keys in a
// warp's registers, queries as two F16 numbers each in shared memory, products on tensor cores, and
// ranks.
//
// A query is 22 bits of its largest element, keys are exact as they are cached, so products are
// those of float32. The order of elements along k is the same for both operands and otherwise free:
// a thread has 8 neighbouring ones of 32, one load of 16 bytes.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/mma_f16.cuh"
#include "device/cuda/ptx/warp.cuh"

namespace moe4::cuda {

inline constexpr int kScoreSteps = 4;     // of 32 elements: a width of up to 128
inline constexpr int kQueriesOfTile = 8;  // columns of mma.m16n8k16
inline constexpr int kWarpKeys = 32;      // its rows, twice

/// Eight queries in shared memory as fragments of B: for every 32 elements the higher numbers, then
/// the lower ones, 16 bytes a lane.
inline constexpr int kQueryFragment = 512;
inline constexpr int kQueryTileBytes = kScoreSteps * 2 * kQueryFragment;

/// Puts a query to its place in a tile, scaled by a power of 2, which the result takes back. Lanes
/// 16 i to 16 i + 15 have its elements, 8 each, `chunk` (0 .. 15) of them; beyond a width are
/// zeros.
__device__ __forceinline__ float put_query(uint8_t* tile, int query, int chunk,
                                           const float (&x)[8]) {
  float top = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) top = fmaxf(top, fabsf(x[i]));
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) {
    top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, offset));
  }
  // To [2^10, 2^11), so that the lower of the two numbers is not subnormal.
  const int exponent = static_cast<int>(__float_as_uint(top) >> 23) - 127;
  const int up = top > 0 ? max(-100, min(100, 10 - exponent)) : 0;
  const float factor = __int_as_float((127 + up) << 23);
  const auto bits = [](__half2 pair) { return *reinterpret_cast<const uint32_t*>(&pair); };
  uint32_t high[4], low[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair{x[2 * i] * factor, x[2 * i + 1] * factor};
    const __half2 rounded = __floats2half2_rn(pair.x, pair.y);
    const float2 back = __half22float2(rounded);
    high[i] = bits(rounded);
    low[i] = bits(__floats2half2_rn(pair.x - back.x, pair.y - back.y));
  }
  uint8_t* to =
      tile + chunk / 4 * 2 * kQueryFragment + (4 * query + chunk % 4) * int{sizeof(uint4)};
  *reinterpret_cast<uint4*>(to) = {high[0], high[1], high[2], high[3]};
  *reinterpret_cast<uint4*>(to + kQueryFragment) = {low[0], low[1], low[2], low[3]};
  return __int_as_float((127 - up) << 23);
}

/// Of 32 keys side by side, `dim` elements each: fragments of A, of 16 keys and 16 elements.
struct KeyFragments {
  uint32_t of[2][2 * kScoreSteps][4];

  /// Zeros for keys from `count` on.
  __device__ __forceinline__ void load(const __half* rows, int dim, int count) {
    const int lane = lane_id(), g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int step = 0; step < kScoreSteps; ++step) {
        const int d = 32 * step + 8 * t;
        uint4 x[2];  // of keys g and g + 8
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int key = 16 * i + 8 * half + g;
          const bool wanted = d < dim && key < count;
          x[half] = wanted ? *reinterpret_cast<const uint4*>(rows + key * dim + d) : uint4{};
        }
        const uint32_t parts[2][4] = {{x[0].x, x[1].x, x[0].y, x[1].y},
                                      {x[0].z, x[1].z, x[0].w, x[1].w}};
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          of[i][2 * step][r] = parts[0][r];
          of[i][2 * step + 1][r] = parts[1][r];
        }
      }
    }
  }

  /// Their products with the queries of a tile at this lane's shared `address`: dots[i] are of keys
  /// 16 i + g (0, 1) and 16 i + 8 + g (2, 3) of lane 4 g + t, with queries 2 t and 2 t + 1.
  __device__ __forceinline__ void multiply(uint32_t address, int steps, float (&dots)[2][4]) const {
    float parts[2][2][4] = {};  // of higher and lower numbers: shorter chains of products
#pragma unroll
    for (int step = 0; step < kScoreSteps; ++step) {
      if (step >= steps) continue;
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const uint4 b = load_shared16(address + (2 * step + part) * kQueryFragment);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          multiply_f16(parts[part][i], of[i][2 * step], b.x, b.y);
          multiply_f16(parts[part][i], of[i][2 * step + 1], b.z, b.w);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) dots[i][j] = parts[0][i][j] + parts[1][i][j];
    }
  }
};

/// Rises with the score: equal for equal scores, 0 and -0 among them; the largest for no number. No
/// score has rank 0.
__device__ __forceinline__ uint32_t rank_of(float score) {
  const float x = isnan(score) ? INFINITY : score + 0.0f;
  const uint32_t bits = __float_as_uint(x);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

}  // namespace moe4::cuda
