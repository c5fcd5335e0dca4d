// Programmatic dependent launch from the device's side.
#pragma once

namespace moe4::cuda {

/// Lets the next kernel of the stream start its prologue. Does nothing before SM90.
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/// Waits until every kernel before this one has finished and its writes are visible.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace moe4::cuda
