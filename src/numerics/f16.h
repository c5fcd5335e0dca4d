// IEEE half precision as its bits: 11 significant bits, largest value 65504.
#pragma once

#include <bit>
#include <cstdint>

#include "numerics/host_device.h"

namespace moe4 {

/// Storage type; arithmetic is done in float.
struct F16 {
  uint16_t bits = 0;
};
static_assert(sizeof(F16) == 2);

MOE4_HOST_DEVICE constexpr float to_float(F16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  const uint32_t exponent = (x.bits >> 10) & 0x1f;
  const uint32_t mantissa = x.bits & 0x3ff;
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -value : value;
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

/// Rounds to nearest, ties to even; saturates at 65504 (also infinities); NaN stays NaN.
MOE4_HOST_DEVICE constexpr F16 to_f16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return F16{static_cast<uint16_t>(sign | 0x7e00)};
  const float a = std::bit_cast<float>(magnitude);
  if (a >= 65504.0f) return F16{static_cast<uint16_t>(sign | 0x7bff)};
  if (a < 0x1p-14f) {
    // Adding 2^-1 leaves exactly the multiples of 2^-24 in a float's last place, rounded to nearest
    // even.
    const float shifted = a + 0x1p-1f;
    return F16{static_cast<uint16_t>(
        sign | (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0x1p-1f)))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return F16{static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)))};
}

}  // namespace moe4
