// Activations exactly in the middle between two block scales or two codes, where one float32
// rounding of an inexact quotient decides: a multiplication with a reciprocal falls to the wrong
// side of some.
#pragma once

#include <array>
#include <vector>

#include "numerics/e2m1.h"
#include "numerics/e4m3.h"

namespace moe4::testing {

struct Fp4Tie {
  std::array<float, 16> x{};
  float global = 1;
  uint8_t scale = 0;               ///< the E4M3 byte expected
  bool codes_known = false;        ///< then:
  std::array<float, 16> values{};  ///< the E2M1 values expected, before any scale
};

/// Every product below has at most 12 significant bits: all inputs are exact. Expected values come
/// from the rule (ties to the even code) alone.
inline std::vector<Fp4Tie> fp4_ties() {
  std::vector<Fp4Tie> ties;
  constexpr float kGlobals[] = {1.0f,        3 * 0x1p-7f,  5 * 0x1p-9f,
                                7 * 0x1p-8f, 11 * 0x1p-5f, 13 * 0x1p-12f};
  for (const float global : kGlobals) {
    for (uint8_t byte = 0; byte < 0x7e; ++byte) {
      const float low = e4m3_to_float(byte), high = e4m3_to_float(static_cast<uint8_t>(byte + 1));
      Fp4Tie scale{.global = global, .scale = static_cast<uint8_t>(byte + (byte & 1))};
      scale.x[byte % 16] = (byte % 3 == 0 ? -6 : 6) * global * ((low + high) / 2);
      ties.push_back(scale);
      if (byte == 0) continue;
      Fp4Tie codes{.global = global, .scale = byte, .codes_known = true};
      constexpr float kBetween[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
      constexpr float kEven[] = {0.0f, 1.0f, 1.0f, 2.0f, 2.0f, 4.0f, 4.0f};
      for (int i = 0; i < 14; ++i) {
        const float sign = i < 7 ? 1.0f : -1.0f;
        codes.x[i] = sign * kBetween[i % 7] * low * global;
        codes.values[i] = sign * kEven[i % 7];
      }
      codes.x[15] = 6 * low * global;
      codes.values[15] = 6;
      ties.push_back(codes);
    }
  }
  return ties;
}

}  // namespace moe4::testing
