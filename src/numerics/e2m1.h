// E2M1, the 4-bit element of NVFP4: sign and magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6.
#pragma once

#include <cstdint>

#include "numerics/host_device.h"

namespace moe4 {

inline constexpr float kE2m1Max = 6.0f;

/// Code 8 is negative zero and decodes to -0.0f, which adds nothing.
MOE4_HOST_DEVICE constexpr float e2m1_to_float(uint8_t code) {
  const int magnitude = code & 7;
  // Twice the value is an integer: 0 1 2 3 4 6 8 12.
  const int twice = magnitude < 4 ? magnitude
                                  : (magnitude == 4   ? 4
                                     : magnitude == 5 ? 6
                                     : magnitude == 6 ? 8
                                                      : 12);
  const float value = 0.5f * static_cast<float>(twice);
  return (code & 8) ? -value : value;
}

/// Rounds to the nearest magnitude, ties to the even code, saturating at 6. NaN saturates to +-6,
/// as the hardware conversion (cvt.rn.satfinite.e2m1x2) does; sign is kept, also of zero.
MOE4_HOST_DEVICE constexpr uint8_t e2m1_from_float(float x) {
  const float a = x < 0 ? -x : x;
  const bool negative = x < 0 || (x == 0 && 1.0f / x < 0);
  uint8_t code = 7;
  if (a <= 0.25f)
    code = 0;
  else if (a < 0.75f)
    code = 1;
  else if (a <= 1.25f)
    code = 2;
  else if (a < 1.75f)
    code = 3;
  else if (a <= 2.5f)
    code = 4;
  else if (a < 3.5f)
    code = 5;
  else if (a <= 5.0f)
    code = 6;
  return static_cast<uint8_t>(negative ? code | 8 : code);
}

}  // namespace moe4
