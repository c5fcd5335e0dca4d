// Copies of the copy engine (SM90) out of a tensor in global memory that a CUtensorMap describes.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace moe4::cuda {

/// Has the description at hand before the first copy.
__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
/// A box of a tensor of three dimensions, from these places on (the innermost first); the barrier
/// is told of the whole box, of which zeros are what lies outside the tensor.
__device__ __forceinline__ void tensor_copy(uint32_t destination, const CUtensorMap* map, int x,
                                            int y, int z, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(destination),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
      : "memory");
}
/// The same, to the same place in all blocks of the cluster that `blocks` has a bit of, and the
/// barrier at the same place in each.
__device__ __forceinline__ void tensor_copy_to_blocks(uint32_t destination, const CUtensorMap* map,
                                                      int x, int y, int z, uint32_t barrier,
                                                      uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(destination),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier), "h"(blocks)
      : "memory");
}

}  // namespace moe4::cuda
