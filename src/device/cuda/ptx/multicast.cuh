// Bulk copies of the copy engine (SM90) to several blocks of a cluster at once.
#pragma once

#include <cstdint>

#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/cluster.cuh"

namespace moe4::cuda {

/// From global to shared memory, to the same place in all blocks of the cluster that `blocks` has a
/// bit of; the barrier at the same place in each is told. Bytes and addresses in multiples of 16.
__device__ __forceinline__ void bulk_copy_to_blocks(uint32_t destination, const void* source,
                                                    uint32_t bytes, uint32_t barrier,
                                                    uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1], %2, [%3], %4;" ::"r"(destination),
      "l"(source), "r"(bytes), "r"(barrier), "h"(blocks)
      : "memory");
}

/// Arrives at a barrier at an address_in_block(), as whoever has done with what was copied there
/// and wrote nothing itself: nothing is to be made visible first.
__device__ __forceinline__ void tell_block(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/// The barrier at the same place in all `blocks` of the cluster, as warp_tell_blocks() takes it: of
/// the block that this lane tells.
__device__ __forceinline__ uint32_t told_barrier(uint32_t barrier, int lane, int blocks) {
  return kEveryLaneArrives ? barrier : address_in_block(barrier, lane % blocks);
}
/// tell_block() of a warp to each of the blocks, kWarpArrivals each; called as warp_arrive() is.
__device__ __forceinline__ void warp_tell_blocks(uint32_t told, int lane, int blocks) {
  if constexpr (kEveryLaneArrives) {
    for (int block = 0; block < blocks; ++block) tell_block(address_in_block(told, block));
  } else {
    if (lane < blocks) tell_block(told);
  }
}

}  // namespace moe4::cuda
