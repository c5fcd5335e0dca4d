// Where the expert-wise FC2 leaves a pair's outputs as quads (device/pair_output.cuh): [pair][32
// rows][8 quads], quad g of rows g, g + 8, g + 16 and g + 24.
#pragma once

#include <cstdint>

#include "experts/marlin/marlin_params.h"

namespace moe4::cuda {

__device__ __forceinline__ uint2* quads_of_pair(const MarlinParams& p, int64_t pair) {
  return reinterpret_cast<uint2*>(p.y) + pair * (p.layer.fc2_tiles * 4);
}

}  // namespace moe4::cuda
