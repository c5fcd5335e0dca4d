// One lane's arrival on an mbarrier for its whole warp, or every lane's own where a tool needs it.
//
// After a __syncwarp() lane 0 may arrive for all. That costs a converged warp no instruction, so
// compute-sanitizer's racecheck cannot see it: it takes the other 31 lanes' accesses for unordered.
// In a build for racecheck (MOE4_RACECHECK) all lanes arrive, at the same places; barriers expect
// kWarpArrivals for a warp.
#pragma once

#include <cstdint>

namespace moe4::cuda {

#ifdef MOE4_RACECHECK
inline constexpr bool kEveryLaneArrives = true;
#else
inline constexpr bool kEveryLaneArrives = false;
#endif
inline constexpr int kWarpArrivals = kEveryLaneArrives ? 32 : 1;

/// The warp's kWarpArrivals on a barrier in shared memory. All lanes call it, converged and with
/// what the arrival reports behind a __syncwarp() or a warp-wide wait; `leader` in one of them.
__device__ __forceinline__ void warp_arrive(uint32_t barrier, bool leader) {
  if (kEveryLaneArrives || leader) {
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier)
                 : "memory");
  }
}

}  // namespace moe4::cuda
