// Eight neighbouring values of a row at a time, as float32, whatever the row's format.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "ops/cuda/row_values.cuh"

namespace moe4::cuda {

/// Values of a vector: 16 bytes of BF16, twice that of float32.
inline constexpr int kVector = 8;

/// Whether rows consist of whole vectors that begin at multiples of 16 bytes. Empty rows do.
inline bool are_vectors(std::initializer_list<Rows> all) {
  for (const Rows& rows : all) {
    if (rows.data == nullptr) continue;
    const int64_t bytes = rows.stride * element_bytes(rows.format);
    if (rows.width % kVector != 0 || bytes % 16 != 0) return false;
    if (reinterpret_cast<uintptr_t>(rows.data) % 16 != 0) return false;
  }
  return true;
}

/// The vector at `p`, which is a multiple of 16 bytes.
__device__ __forceinline__ void load_vector(const float* p, float (&v)[kVector]) {
  const float4 low = *reinterpret_cast<const float4*>(p);
  const float4 high = *reinterpret_cast<const float4*>(p + 4);
  v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
  v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}
__device__ __forceinline__ void load_vector(const __nv_bfloat16* p, float (&v)[kVector]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(p);
  const uint32_t pairs[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = __uint_as_float(pairs[i] << 16);
    v[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  }
}

__device__ __forceinline__ void store_vector(float* p, const float (&v)[kVector]) {
  *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
  *reinterpret_cast<float4*>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}
__device__ __forceinline__ void store_vector(__nv_bfloat16* p, const float (&v)[kVector]) {
  __nv_bfloat162 pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
  *reinterpret_cast<uint4*>(p) = *reinterpret_cast<const uint4*>(pairs);
}

/// The same where the row has `count` values from `p` on, at any address, unless kWhole says that
/// it is a whole aligned vector. Values past the row's end are read as 0 and not written.
template <bool kWhole, typename T>
__device__ __forceinline__ void load_vector(const T* p, int count, float (&v)[kVector]) {
  if constexpr (kWhole) {
    load_vector(p, v);
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] = i < count ? to_float(p[i]) : 0.0f;
  }
}
template <bool kWhole, typename T>
__device__ __forceinline__ void store_vector(T* p, int count, const float (&v)[kVector]) {
  if constexpr (kWhole) {
    store_vector(p, v);
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      if (i < count) p[i] = from_float<T>(v[i]);
    }
  }
}

}  // namespace moe4::cuda
