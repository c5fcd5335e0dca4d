// The largest of some ranks, by a block of threads: the smallest rank that is among them is found
// digit by digit from the top; then the places of all above it and of the first that are equal to
// it are written in their order.
//
// What is found depends on the ranks alone, not on the order in which threads count.
#pragma once

#include <cstdint>

#include "base/checked_math.h"
#include "device/cuda/block_scan.cuh"

namespace moe4::cuda {

/// Of blocks of 1024 threads, which all call it.
class LargestRanks {
 public:
  static constexpr int kWarps = 32, kThreads = 32 * kWarps;

  /// What a block shares.
  struct Shared {
    int bins[2 * kThreads];
    int sums[2 * kWarps];
    int digit, above;
  };

  /// Writes to `chosen` the places of the `most` largest of `count` > most ranks, rising; equal
  /// ones go to the lower place. `ranks` begin at a multiple of 16 bytes.
  static __device__ __forceinline__ void take(const uint32_t* ranks, int count, int most,
                                              Shared& shared, int32_t* chosen) {
    uint32_t threshold = 0;
    int left = most;
    find_digit<21, 11>(ranks, count, shared, threshold, left);
    find_digit<10, 11>(ranks, count, shared, threshold, left);
    find_digit<0, 10>(ranks, count, shared, threshold, left);
    // `left` of those equal to the threshold are taken.
    write(ranks, count, threshold, left, shared, chosen);
  }

 private:
  static constexpr int kAhead = 8;  // loads of a lane that are on their way

  // Counts digits of ranks whose higher bits are those of `threshold`.
  template <int Shift, int Bits>
  static __device__ __forceinline__ void count_digits(const uint32_t* ranks, int count,
                                                      uint32_t threshold, int* bins) {
    const auto add = [&](uint32_t rank) {
      if constexpr (Shift + Bits < 32) {
        if (rank >> (Shift + Bits) != threshold) return;
      }
      atomicAdd(bins + (rank >> Shift & ((1u << Bits) - 1)), 1);
    };
    const int whole = count / 4 * 4;
#pragma unroll 4
    for (int i = 4 * static_cast<int>(threadIdx.x); i < whole; i += 4 * kThreads) {
      const uint4 four = *reinterpret_cast<const uint4*>(ranks + i);
      add(four.x);
      add(four.y);
      add(four.z);
      add(four.w);
    }
    const int rest = whole + static_cast<int>(threadIdx.x);
    if (rest < count) add(ranks[rest]);
  }

  // The next digit of the `left`th largest rank among those that begin with `threshold`; takes off
  // `left` what is larger.
  template <int Shift, int Bits>
  static __device__ __forceinline__ void find_digit(const uint32_t* ranks, int count,
                                                    Shared& shared, uint32_t& threshold,
                                                    int& left) {
    constexpr int kBins = 2 * kThreads;
    static_assert(1 << Bits <= kBins);
    const int thread = static_cast<int>(threadIdx.x);
    shared.bins[thread] = shared.bins[kThreads + thread] = 0;
    __syncthreads();
    count_digits<Shift, Bits>(ranks, count, threshold, shared.bins);
    __syncthreads();
    const int upper = kBins - 1 - 2 * thread;  // largest first
    const int in_upper = shared.bins[upper], in_both = in_upper + shared.bins[upper - 1];
    const int before = exclusive_scan<kWarps>(in_both, shared.sums);
    if (before < left && before + in_both >= left) {
      const bool is_upper = before + in_upper >= left;
      shared.digit = is_upper ? upper : upper - 1;
      shared.above = is_upper ? before : before + in_upper;
    }
    __syncthreads();
    threshold = threshold << Bits | static_cast<uint32_t>(shared.digit);
    left -= shared.above;
  }

  static __device__ __forceinline__ void write(const uint32_t* ranks, int count, uint32_t threshold,
                                               int left, Shared& shared, int32_t* chosen) {
    const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
    const int segment = static_cast<int>(ceil_div(count, kWarps));  // of a warp
    const int begin = min(warp * segment, count), end = min(begin + segment, count);
    int counts[2] = {};  // of ranks above the threshold, equal to it
#pragma unroll 8
    for (int i = begin + lane; i < end; i += 32) {
      const uint32_t rank = ranks[i];
      counts[0] += rank > threshold ? 1 : 0;
      counts[1] += rank == threshold ? 1 : 0;
    }
    exclusive_scans<kWarps>(counts, shared.sums);
    // Of the warps before.
    const int above = __shfl_sync(0xffffffff, counts[0], 0);
    int equal = __shfl_sync(0xffffffff, counts[1], 0);
    int to = above + min(equal, left);
    const unsigned lanes_before = (1u << lane) - 1;
    for (int from = begin; from < end; from += 32 * kAhead) {
      uint32_t own[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int i = from + 32 * j + lane;
        own[j] = i < end ? ranks[i] : 0;
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int i = from + 32 * j + lane;
        const bool is_equal = i < end && own[j] == threshold;
        const unsigned equals = __ballot_sync(0xffffffff, is_equal);
        const bool is_taken =
            i < end &&
            (own[j] > threshold || (is_equal && equal + __popc(equals & lanes_before) < left));
        const unsigned taken = __ballot_sync(0xffffffff, is_taken);
        if (is_taken) chosen[to + __popc(taken & lanes_before)] = i;
        to += __popc(taken);
        equal += __popc(equals);
      }
    }
  }
};

}  // namespace moe4::cuda
