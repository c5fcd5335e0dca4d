// E8M0, the block scale of the MX formats: a power of two, 2^(byte - 127); 255 is NaN.
#pragma once

#include <bit>
#include <cstdint>

#include "numerics/host_device.h"

namespace moe4 {

inline constexpr uint8_t kE8m0Nan = 255;
inline constexpr int kE8m0Bias = 127;

MOE4_HOST_DEVICE constexpr bool e8m0_is_nan(uint8_t byte) { return byte == kE8m0Nan; }

/// Exact for all bytes: 0 is 2^-127, a subnormal float. 255 gives NaN.
MOE4_HOST_DEVICE constexpr float e8m0_to_float(uint8_t byte) {
  if (e8m0_is_nan(byte)) return std::bit_cast<float>(0x7fc00000u);
  return std::bit_cast<float>(byte == 0 ? 0x00400000u : uint32_t{byte} << 23);
}

}  // namespace moe4
