// How rows of float32 get into a KV cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/batch.h"
#include "ops/cpu/kernels.h"

namespace moe4 {

/// Writes n values (a multiple of 16) to `to`, rounded to `dtype` (kF16 or kF32). F16 saturates at
/// 65504; a row with an infinite value becomes NaN, since infinity must not pass for a large
/// number.
inline void store_cache_row(const OpKernels& kernels, const float* row, int64_t n, DType dtype,
                            std::byte* to) {
  if (dtype == DType::kF32) {
    std::copy_n(row, n, reinterpret_cast<float*>(to));
    return;
  }
  auto* halves = reinterpret_cast<F16*>(to);
  kernels.to_f16(row, n, halves);
  bool infinite = false;
  for (int64_t i = 0; i < n; ++i) infinite |= std::abs(row[i]) > std::numeric_limits<float>::max();
  if (infinite) std::fill_n(halves, n, to_f16(std::numeric_limits<float>::quiet_NaN()));
}

}  // namespace moe4
