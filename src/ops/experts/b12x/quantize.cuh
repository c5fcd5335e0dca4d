// NVFP4 quantisation of a block of 16 values that several lanes hold, bit for bit
// nvfp4_quantize_block (numerics/nvfp4.h).
#pragma once

#include <cstdint>

#include "numerics/bf16.h"
#include "numerics/nvfp4.h"

namespace moe4::b12x {

/// Bits of |x|: for finite values and infinities they order as the values do, and NaN is above
/// infinity, so one integer maximum finds both amax and whether the block is finite.
__device__ __forceinline__ uint32_t magnitude_bits(float x) {
  return __float_as_uint(x) & 0x7fffffffu;
}

struct BlockScale {
  uint8_t byte = 0;
  float step = 0.0f;  ///< scale * global; NaN or 0 where all codes are zero
};

/// `amax_bits`: maximum of magnitude_bits over the block.
__device__ __forceinline__ BlockScale block_scale(uint32_t amax_bits, float global) {
  BlockScale scale;
  scale.byte = amax_bits >= 0x7f800000u
                   ? uint8_t{0x7f}
                   : nvfp4_activation_scale(__uint_as_float(amax_bits), DecodeScale{global});
  scale.step = e4m3_to_float(scale.byte) * global;
  return scale;
}

__device__ __forceinline__ uint32_t quantize(float x, float step) {
  return step > 0.0f ? e2m1_from_float(__fdiv_rn(x, step)) : 0u;
}

}  // namespace moe4::b12x
