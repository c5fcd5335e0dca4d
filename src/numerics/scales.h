// The two opposite conventions for second-level scales as types that do not mix.
#pragma once

#include "numerics/host_device.h"

namespace moe4 {

/// Multiplies: value = code * block_scale * decode. ModelOpt's `weight_scale_2` and `input_scale`
/// (small numbers).
struct DecodeScale {
  float value = 1.0f;
};

/// Divides: value = code * block_scale / encode. compressed-tensors' `*_global_scale` (large
/// numbers).
struct EncodeScale {
  float value = 1.0f;
};

MOE4_HOST_DEVICE constexpr DecodeScale to_decode(EncodeScale encode) {
  return DecodeScale{1.0f / encode.value};
}
MOE4_HOST_DEVICE constexpr EncodeScale to_encode(DecodeScale decode) {
  return EncodeScale{1.0f / decode.value};
}

}  // namespace moe4
