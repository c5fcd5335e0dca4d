// BF16 as its bits: the upper half of a float32, rounded to nearest, ties to even.
#pragma once

#include <bit>
#include <cstdint>

#include "numerics/host_device.h"

namespace moe4 {

/// Storage type; arithmetic is done in float.
struct Bf16 {
  uint16_t bits = 0;
};
static_assert(sizeof(Bf16) == 2);

MOE4_HOST_DEVICE constexpr float to_float(Bf16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

/// NaN stays NaN (made quiet); everything else rounds to nearest even, overflowing to infinity.
MOE4_HOST_DEVICE constexpr Bf16 to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return Bf16{static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return Bf16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

MOE4_HOST_DEVICE constexpr float round_to_bf16(float x) { return to_float(to_bf16(x)); }

}  // namespace moe4
