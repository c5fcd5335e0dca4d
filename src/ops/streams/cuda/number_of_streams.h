// Numbers of streams as types, so that kernels have what they keep of each in registers.
#pragma once

#include <type_traits>

#include "base/error.h"
#include "ops/streams/streams.h"

namespace moe4::cuda {

/// Calls f(std::integral_constant<int, n>{}), n up to StreamShape::kMost.
template <int kFirst = 1, class F>
void with_number_of_streams(int64_t n, const F& f) {
  if (n == kFirst) return f(std::integral_constant<int, kFirst>{});
  if constexpr (kFirst < StreamShape::kMost) return with_number_of_streams<kFirst + 1>(n, f);
  MOE4_CHECK(n <= StreamShape::kMost);
}

}  // namespace moe4::cuda
