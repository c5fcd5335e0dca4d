// Host-side packing of an expert's NVFP4 codes and scales into packed_layout.h, and back.
#pragma once

#include <cstdint>

#include "moe/weights.h"
#include "ops/experts/gpu/packed_layout.h"

namespace moe4::cuda {

/// The packed format of E2M1 weights.
WeightFormat weight_format(const QuantScheme& scheme);

/// `exponent_shift` from check_scales().
CodeRows code_rows(const LinearWeights& linear, int exponent_shift);

/// Throws Error(kBadInput) naming the tensor when a block scale is NaN. Of MXFP4 weights, whose
/// codes must be in host memory too, the shift of the exponents; throws as mxfp4_exponent_shift().
int check_scales(const LinearWeights& linear);

/// Writes m16 tiles [first_tile, last_tile) of one expert; `out` is the expert's first byte. Kind
/// kGateUp reads both operands, kPlain only `first` (up of a non-gated FC1, or down).
void pack_tiles(const PackedShape& shape, const CodeRows& first, const CodeRows& up,
                int64_t first_tile, int64_t last_tile, uint8_t* out);

/// Code and scale of an element as the kernels decode them.
struct PackedElement {
  float code = 0;   ///< E2M1 value; the sign includes that of a negative scale
  float scale = 0;  ///< of no meaning where the whole block is zero; MXFP4: times 2^(shift - 106)
};

/// Element (row, column) of one expert. With kGateUp `row` < I is a gate row, I + i an up row.
PackedElement unpack_element(const PackedShape& shape, const uint8_t* expert, int64_t row,
                             int64_t column);

}  // namespace moe4::cuda
