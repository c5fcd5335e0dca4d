// Lines on their way into the L2 before anybody may read them.
#pragma once

namespace moe4::cuda {

/// The line at `p`. Who loads it later sees what was stored in between.
__device__ __forceinline__ void prefetch_l2(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p) : "memory");
}

}  // namespace moe4::cuda
