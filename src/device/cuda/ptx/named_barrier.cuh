// Named barriers whose threads need not all wait (named_barrier() in warp.cuh: all do).
#pragma once

namespace moe4::cuda {

/// Is one of the `Threads` threads of barrier `id` and waits for nobody: others see what it wrote
/// before, and do nothing that it must not see before.
template <int Threads>
__device__ __forceinline__ void arrive_at_named_barrier(int id) {
  asm volatile("barrier.arrive %0, %1;" ::"r"(id), "n"(Threads) : "memory");
}

}  // namespace moe4::cuda
