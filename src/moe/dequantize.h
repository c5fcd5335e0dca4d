// Exact float32 values of a linear's weights, row by row.
#pragma once

#include <cstdint>

#include "moe/weights.h"

namespace moe4 {

/// Writes row `row` of the linear as in_features floats, as the table in weights.h says. Every
/// product is a float32 product in the order (code * scale) * global_scale, the order of the
/// formats' own decoders.
void dequantize_row(const LinearWeights& linear, int64_t row, float* out);

/// The bias of output `row`, 0 without one.
float bias_at(const LinearWeights& linear, int64_t row);

/// Elements [0, n) of BF16, F16, F32 or F64 storage as floats.
void convert_to_float(const void* data, DType dtype, int64_t n, float* out);

}  // namespace moe4
