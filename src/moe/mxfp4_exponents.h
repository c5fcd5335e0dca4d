// Where the exponents of an MXFP4 linear lie, and how a kernel with a narrower range holds them.
#pragma once

#include <string_view>

#include "moe/weights.h"
#include "numerics/host_device.h"

namespace moe4 {

/// What a backend can store for a block: scale byte + shift within [least, most]. The weights come
/// out times 2^shift, which the backend takes back in float32.
struct ExponentWindow {
  int least = 0;
  int most = 0;
  int preferred_shift = 0;
};

/// The shift nearest to the preferred one with which all blocks of the linear fit the window;
/// blocks of zeros fit any. Codes and scales must be in host memory.
///
/// Throws Error(kBadInput) naming the linear for a scale of 255 (NaN) and for a weight beyond
/// float32 (2^128 and above); Error(kUnavailable) naming it and `backend` where the blocks'
/// exponents are further apart than the window is wide.
int mxfp4_exponent_shift(const LinearWeights& linear, const ExponentWindow& window,
                         std::string_view backend);

/// The stored byte: what falls out of the window belongs to a block of zeros.
MOE4_HOST_DEVICE constexpr uint8_t shifted_exponent(uint8_t scale, int shift) {
  const int shifted = scale + shift;
  return static_cast<uint8_t>(shifted < 0 ? 0 : shifted > 254 ? 254 : shifted);
}

}  // namespace moe4
