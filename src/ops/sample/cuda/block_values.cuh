// Sums, maxima and prefix sums of 64-bit numbers over a block of 256 threads, for all of them.
// Every thread calls; shared memory may be used again at once.
#pragma once

#include <cstdint>

namespace moe4::cuda {

inline constexpr int kSampleThreads = 256;
inline constexpr int kSampleWarps = kSampleThreads / 32;

__device__ __forceinline__ uint64_t warp_max(uint64_t x) {
  const auto high = static_cast<uint32_t>(x >> 32), low = static_cast<uint32_t>(x);
  const uint32_t top = __reduce_max_sync(~0u, high);
  const uint32_t rest = __reduce_max_sync(~0u, high == top ? low : 0);
  return static_cast<uint64_t>(top) << 32 | rest;
}

__device__ __forceinline__ uint64_t block_max(uint64_t x) {
  __shared__ uint64_t warps[kSampleWarps];
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  x = warps[0];
#pragma unroll
  for (int w = 1; w < kSampleWarps; ++w) x = warps[w] > x ? warps[w] : x;
  return x;
}

/// The sum of what the threads before this one have; `total` gets that of all.
__device__ __forceinline__ uint64_t block_scan(uint64_t x, uint64_t& total) {
  __shared__ uint64_t warps[kSampleWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint64_t sum = x;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint64_t other = __shfl_up_sync(~0u, sum, distance);
    if (lane >= distance) sum += other;
  }
  __syncthreads();
  if (lane == 31) warps[warp] = sum;
  __syncthreads();
  uint64_t before = 0;
  total = 0;
#pragma unroll
  for (int w = 0; w < kSampleWarps; ++w) {
    before += w < warp ? warps[w] : 0;
    total += warps[w];
  }
  return before + sum - x;
}

__device__ __forceinline__ uint64_t block_sum(uint64_t x) {
  uint64_t total;
  block_scan(x, total);
  return total;
}

/// In a fixed order.
__device__ __forceinline__ double block_sum(double x) {
  __shared__ double warps[kSampleWarps];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  double all = 0;
#pragma unroll
  for (int w = 0; w < kSampleWarps; ++w) all += warps[w];
  return all;
}

/// Calls use(rank, value) in thread 0 for the `n` largest of the different values that get(i), i in
/// [0, count), gives in all threads together, the largest first; 0 where there are no more.
template <typename Get, typename Use>
__device__ __forceinline__ void block_largest(int n, int count, const Get& get, const Use& use) {
  uint64_t below = ~uint64_t{0};
  for (int rank = 0; rank < n; ++rank) {
    uint64_t best = 0;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const uint64_t value = get(i);
      if (value < below && value > best) best = value;
    }
    below = block_max(best);
    if (threadIdx.x == 0) use(rank, below);
  }
}

/// True in all threads of the last of `blocks` blocks that get here; what the others wrote before
/// is visible to it (past L1: __ldcg()). The counter begins at 0.
__device__ __forceinline__ bool is_last_block(uint32_t* counter, uint32_t blocks) {
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicAdd(counter, 1u) == blocks - 1;
  __syncthreads();
  if (is_last) __threadfence();
  return is_last;
}

}  // namespace moe4::cuda
