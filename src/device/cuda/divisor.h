// Division on the device by a number that the host knows at launch.
#pragma once

#include <cstdint>

#include "numerics/host_device.h"

namespace moe4::cuda {

/// Of numbers below 2^31 by 1 .. 2^31: a product and a shift, exact.
struct Divisor {
  Divisor() = default;
  explicit Divisor(int64_t divisor) {
    while ((int64_t{1} << shift) < divisor) ++shift;
    factor = static_cast<uint32_t>(((int64_t{1} << (31 + shift)) + divisor - 1) / divisor);
  }
  MOE4_HOST_DEVICE uint32_t divide(uint32_t n) const {
#ifdef __CUDA_ARCH__
    return __umulhi(n * 2, factor) >> shift;
#else
    return static_cast<uint32_t>((uint64_t{n * 2} * factor) >> 32) >> shift;
#endif
  }

  uint32_t factor = 0, shift = 0;
};

}  // namespace moe4::cuda
