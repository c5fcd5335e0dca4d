// Launches of even_sm90.cu.
#pragma once

#include "ops/linear/cuda/kernels.h"

namespace moe4::cuda {

/// Dozens of generated tokens of as many rows of FP8 as all multiprocessors have at once, x as it
/// is: bits are those of decode_linears(). False, and nothing done, for others.
bool even_linears(const LinearCall& call);
void allow_even_kernels(int bytes);

}  // namespace moe4::cuda
