// Lanes, warps and warpgroups: who am I, one of us, meet, registers.
#pragma once

#include <cstdint>

namespace moe4::cuda {

/// The lane's number, in a register of its own (threadIdx is read anew at every use).
__device__ __forceinline__ int lane_id() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

/// SM90. True in one thread of a converged warp, and ptxas knows: an instruction of a single
/// thread, such as a bulk copy, then needs no loop over the threads that might differ.
__device__ __forceinline__ bool elect_one() {
  uint32_t elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(elected));
  return elected != 0;
}

/// Waits for all `Threads` threads of barrier `id`, 1 .. 15; 0 is __syncthreads(). Warps may call
/// it in different places (bar.sync would want them at the same instruction).
template <int Threads>
__device__ __forceinline__ void named_barrier(int id) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "n"(Threads) : "memory");
}

/// SM90a. Registers a thread of this warpgroup may use from here on.
template <int Registers>
__device__ __forceinline__ void give_registers_back() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

}  // namespace moe4::cuda
