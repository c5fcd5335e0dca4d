// MXFP4 (OCP MX): 32 consecutive values of a row share one E8M0 scale; there is no further scale.
#pragma once

#include <cstdint>

#include "numerics/e2m1.h"
#include "numerics/e8m0.h"
#include "numerics/host_device.h"
#include "numerics/nvfp4.h"

namespace moe4 {

inline constexpr int kMxfp4Block = 32;

/// Element `k` of a packed row lies where NVFP4 has it.
MOE4_HOST_DEVICE constexpr uint8_t mxfp4_code(const uint8_t* packed_row, int64_t k) {
  return nvfp4_code(packed_row, k);
}

/// lut[code] * 2^(scale - 127), exact in float32 but for magnitudes of 2^128 and above, which are
/// infinite (scales 253 and 254).
MOE4_HOST_DEVICE constexpr float mxfp4_value(uint8_t code, uint8_t block_scale) {
  return e2m1_to_float(code) * e8m0_to_float(block_scale);
}

}  // namespace moe4
