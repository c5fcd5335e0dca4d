// Two floats rounded to the two BF16 of a word.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace moe4::cuda::hopper {

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(v);
}

}  // namespace moe4::cuda::hopper
