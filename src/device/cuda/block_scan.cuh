// Prefix sums over a thread block.
#pragma once

namespace moe4::cuda {

/// Exclusive prefix sums of N values a thread, for a block of kWarps whole warps. `sums` gets those
/// of the warps, [N][kWarps], and may be used again after a __syncthreads(). All threads call it.
template <int kWarps, int N>
__device__ __forceinline__ void exclusive_scans(int (&values)[N], int* sums) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int sum[N];
#pragma unroll
  for (int n = 0; n < N; ++n) sum[n] = values[n];
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int other = __shfl_up_sync(~0u, sum[n], distance);
      if (lane >= distance) sum[n] += other;
    }
  }
  if (lane == 31) {
#pragma unroll
    for (int n = 0; n < N; ++n) sums[n * kWarps + warp] = sum[n];
  }
  __syncthreads();
  // All warps below at once: a walk over them would keep the last warp longest.
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const int below = __reduce_add_sync(~0u, lane < warp ? sums[n * kWarps + lane] : 0);
    values[n] = below + sum[n] - values[n];
  }
}

/// Of one value; `warp_sums` may be used again at once.
template <int kWarps>
__device__ __forceinline__ int exclusive_scan(int value, int* warp_sums) {
  int values[1] = {value};
  exclusive_scans<kWarps>(values, warp_sums);
  __syncthreads();
  return values[0];
}

}  // namespace moe4::cuda
