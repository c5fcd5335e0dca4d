// Division on the device by a number that the host knows at launch.
#pragma once

#include <cstdint>

namespace moe4::cuda::hopper {

/// Of numbers below 2^31: a product and a shift.
struct Divisor {
  explicit Divisor(int divisor) {
    while ((int64_t{1} << shift) < divisor) ++shift;
    factor = static_cast<uint32_t>(((int64_t{1} << (31 + shift)) + divisor - 1) / divisor);
  }
  Divisor() = default;
  __device__ uint32_t divide(uint32_t n) const { return __umulhi(n * 2, factor) >> shift; }

  uint32_t factor = 0, shift = 0;
};

}  // namespace moe4::cuda::hopper
