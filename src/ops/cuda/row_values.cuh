// Rows of activations in kernels: float32 or BF16 behind one way to read and write.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "base/error.h"
#include "ops/rows.h"

namespace moe4::cuda {

template <RowFormat kFormat>
struct RowElement {
  using Type = float;
};
template <>
struct RowElement<RowFormat::kBf16> {
  using Type = __nv_bfloat16;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
/// Rounds to nearest, ties to even.
template <typename T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else {
    return __float2bfloat16_rn(x);
  }
}

/// A kernel's view of Rows whose elements are T.
template <typename T>
struct RowsOf {
  T* data = nullptr;
  int64_t stride = 0;  ///< elements

  RowsOf() = default;
  explicit RowsOf(const Rows& rows) : data(reinterpret_cast<T*>(rows.data)), stride(rows.stride) {}
  __device__ T* row(int64_t i) const { return data + i * stride; }
};

/// Calls f(T{}) with T the element of `format`.
template <typename F>
void with_element(RowFormat format, const F& f) {
  switch (format) {
    case RowFormat::kF32:
      return f(float{});
    case RowFormat::kBf16:
      return f(__nv_bfloat16{});
  }
  MOE4_CHECK(false);
}

}  // namespace moe4::cuda
