// mbarrier objects in shared memory, by their addresses there.
#pragma once

#include <cstdint>

namespace moe4::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// `arrivals` complete a phase. Visible to the block after __syncthreads().
__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// SM90. After barrier_init: makes the barriers visible to the copy engine and to other threads
/// (with the __syncthreads() that follows; at once to this thread).
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier)
               : "memory");
}
/// SM90, one thread: its only arrival, and the bytes that bulk copies will bring.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

/// Returns once the phase of this parity has completed; a fresh barrier is in phase 0, so waiting
/// for parity 1 returns at once. From SM90 it sleeps as long as it takes: polling would cost the
/// multiplying warps issue slots.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
  constexpr uint32_t kNanoseconds = 10'000'000;  // of a try
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, %2;\n"
      "@done bra.uni finished;\n"
      "bra.uni again;\n"
      "finished:\n"
      "}" ::"r"(barrier),
      "r"(parity), "n"(kNanoseconds)
      : "memory");
#else
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again: mbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n"
      "@done bra.uni finished;\n"
      "bra.uni again;\n"
      "finished:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
#endif
}

// ---- one lane's arrival for its whole warp, or every lane's own where a tool needs it
// ------------
//
// After a __syncwarp() lane 0 may arrive for all. That costs a converged warp no instruction, so
// compute-sanitizer's racecheck cannot see it: it takes the other 31 lanes' accesses for unordered.
// In a build for racecheck (MOE4_RACECHECK) all lanes arrive, at the same places; barriers expect
// kWarpArrivals for a warp.

#ifdef MOE4_RACECHECK
inline constexpr bool kEveryLaneArrives = true;
#else
inline constexpr bool kEveryLaneArrives = false;
#endif
inline constexpr int kWarpArrivals = kEveryLaneArrives ? 32 : 1;

/// The warp's kWarpArrivals on a barrier in shared memory. All lanes call it, converged and with
/// what the arrival reports behind a __syncwarp() or a warp-wide wait; `leader` in one of them.
__device__ __forceinline__ void warp_arrive(uint32_t barrier, bool leader) {
  if (kEveryLaneArrives || leader) barrier_arrive(barrier);
}

}  // namespace moe4::cuda
