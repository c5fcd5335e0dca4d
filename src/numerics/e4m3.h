// E4M3 (fn): sign, 4 exponent bits with bias 7, 3 mantissa bits; no infinity, NaN is 0x7f and 0xff,
// largest value 448.
#pragma once

#include <bit>
#include <cstdint>

#include "numerics/host_device.h"

namespace moe4 {

inline constexpr float kE4m3Max = 448.0f;
inline constexpr float kE4m3MinSubnormal = 0x1p-9f;
inline constexpr float kE4m3MinNormal = 0x1p-6f;

MOE4_HOST_DEVICE constexpr bool e4m3_is_nan(uint8_t byte) { return (byte & 0x7f) == 0x7f; }

MOE4_HOST_DEVICE constexpr float e4m3_to_float(uint8_t byte) {
  const uint32_t sign = static_cast<uint32_t>(byte & 0x80) << 24;
  const uint32_t exponent = (byte >> 3) & 0xf;
  const uint32_t mantissa = byte & 7;
  if (e4m3_is_nan(byte)) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * kE4m3MinSubnormal;
    return sign ? -value : value;
  }
  return std::bit_cast<float>(sign | ((exponent + 120) << 23) | (mantissa << 20));
}

/// Rounds to nearest, ties to even, saturating at 448 (also infinities); NaN gives NaN.
MOE4_HOST_DEVICE constexpr uint8_t e4m3_from_float(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint8_t>(sign | 0x7f);
  // 464 is the middle between 448 and the absent 480: from there up everything saturates.
  if (magnitude >= std::bit_cast<uint32_t>(464.0f)) return static_cast<uint8_t>(sign | 0x7e);
  const float a = std::bit_cast<float>(magnitude);
  if (a < kE4m3MinNormal) {
    // Adding 2^14 leaves exactly the multiples of 2^-9 in a float's last place, rounded to nearest
    // even.
    const float shifted = a + 0x1p14f;
    return static_cast<uint8_t>(
        sign | (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0x1p14f)));
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return static_cast<uint8_t>(sign | ((rounded >> 20) - (120u << 3)));
}

}  // namespace moe4
