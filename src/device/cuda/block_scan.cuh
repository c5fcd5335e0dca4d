// Prefix sum over a thread block.
#pragma once

namespace moe4::cuda {

/// Exclusive prefix sum of one value a thread, for a block of whole warps. `warp_sums` holds one
/// int a warp and may be reused at once. All threads call it.
__device__ __forceinline__ int exclusive_scan(int value, int* warp_sums) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int sum = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(~0u, sum, offset);
    if (lane >= offset) sum += other;
  }
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  // All warps below at once: a walk over them would keep the last warp longest.
  const int before = __reduce_add_sync(~0u, lane < warp ? warp_sums[lane] : 0);
  __syncthreads();
  return before + sum - value;
}

}  // namespace moe4::cuda
