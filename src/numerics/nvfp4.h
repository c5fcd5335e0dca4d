// NVFP4: 16 consecutive values of a row share one E4M3 scale; a float32 scale covers the tensor.
#pragma once

#include <cstdint>

#include "numerics/e2m1.h"
#include "numerics/e4m3.h"
#include "numerics/host_device.h"
#include "numerics/scales.h"

namespace moe4 {

inline constexpr int kNvfp4Block = 16;

/// Element `k` of a packed row: byte k/2, low nibble first.
MOE4_HOST_DEVICE constexpr uint8_t nvfp4_code(const uint8_t* packed_row, int64_t k) {
  return static_cast<uint8_t>((packed_row[k / 2] >> (4 * (k & 1))) & 0xf);
}

/// code * block_scale is exact in float32 (at most 6 significant bits); the last product rounds
/// once.
MOE4_HOST_DEVICE constexpr float nvfp4_value(uint8_t code, uint8_t block_scale,
                                             DecodeScale global) {
  return e2m1_to_float(code) * e4m3_to_float(block_scale) * global.value;
}

/// The block scale of 16 activations whose largest magnitude is `amax`:
/// e4m3(min(amax / (6 g), 448)), divisions exact (DESIGN.md section 4). NaN gives a NaN scale.
MOE4_HOST_DEVICE constexpr uint8_t nvfp4_activation_scale(float amax, DecodeScale global) {
  const float scale = amax / (kE2m1Max * global.value);
  return e4m3_from_float(scale > kE4m3Max ? kE4m3Max : scale);
}

/// Quantises 16 activations: s as above, q = e2m1(x / (s g)); a block whose s is 0 becomes all
/// zeros. `codes` receives one code a byte, not packed. A NaN or an infinity gives a NaN scale: it
/// poisons its own row, visibly, and no other (saturating an infinity to 6 * 448 would hide it).
/// Used by every backend's FP4 path and by the reference.
MOE4_HOST_DEVICE constexpr uint8_t nvfp4_quantize_block(const float* x, DecodeScale global,
                                                        uint8_t* codes) {
  float amax = 0.0f;
  bool finite = true;
  for (int i = 0; i < kNvfp4Block; ++i) {
    const float a = x[i] < 0 ? -x[i] : x[i];
    if (a > amax) amax = a;
    if (!(x[i] - x[i] == 0.0f)) finite = false;
  }
  const uint8_t scale = !finite ? uint8_t{0x7f} : nvfp4_activation_scale(amax, global);
  const float step = e4m3_to_float(scale) * global.value;
  for (int i = 0; i < kNvfp4Block; ++i) {
    codes[i] = step > 0 ? e2m1_from_float(x[i] / step) : uint8_t{0};
  }
  return scale;
}

}  // namespace moe4
