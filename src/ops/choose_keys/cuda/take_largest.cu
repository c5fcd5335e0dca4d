// ChooseKeys on NVIDIA GPUs, its choice: a block a token finds the smallest rank that is among the
// largest, digit by digit from the top, then writes the positions of all above it and of the first
// that are equal to it, in their order.
//
// What is found depends on ranks and positions alone, not on the order in which threads count.
#include "base/checked_math.h"
#include "device/cuda/block_scan.cuh"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/choose_keys/cuda/kernels.h"

namespace moe4::cuda {
namespace {

constexpr int kWarps = 32, kThreads = 32 * kWarps;
constexpr int kBins = 2 * kThreads;
constexpr int kAhead = 8;  // loads of a lane that are on their way

// Counts digits of ranks whose higher bits are those of `threshold`.
template <int Shift, int Bits>
__device__ __forceinline__ void count_digits(const uint32_t* ranks, int num_keys,
                                             uint32_t threshold, int* bins) {
  const auto count = [&](uint32_t rank) {
    if constexpr (Shift + Bits < 32) {
      if (rank >> (Shift + Bits) != threshold) return;
    }
    atomicAdd(bins + (rank >> Shift & ((1u << Bits) - 1)), 1);
  };
  const int whole = num_keys / 4 * 4;
#pragma unroll 4
  for (int i = 4 * static_cast<int>(threadIdx.x); i < whole; i += 4 * kThreads) {
    const uint4 four = *reinterpret_cast<const uint4*>(ranks + i);
    count(four.x);
    count(four.y);
    count(four.z);
    count(four.w);
  }
  const int rest = whole + static_cast<int>(threadIdx.x);
  if (rest < num_keys) count(ranks[rest]);
}

// What a block shares.
struct Search {
  int bins[kBins];
  int sums[2 * kWarps];
  int digit, above;
};

// The next digit of the `left`th largest rank among those that begin with `threshold`; takes off
// `left` what is larger.
template <int Shift, int Bits>
__device__ __forceinline__ void find_digit(const uint32_t* ranks, int num_keys, Search& search,
                                           uint32_t& threshold, int& left) {
  static_assert(1 << Bits <= kBins);
  const int thread = static_cast<int>(threadIdx.x);
  search.bins[thread] = search.bins[kThreads + thread] = 0;
  __syncthreads();
  count_digits<Shift, Bits>(ranks, num_keys, threshold, search.bins);
  __syncthreads();
  const int upper = kBins - 1 - 2 * thread;  // largest first
  const int in_upper = search.bins[upper], in_both = in_upper + search.bins[upper - 1];
  const int before = exclusive_scan<kWarps>(in_both, search.sums);
  if (before < left && before + in_both >= left) {
    const bool is_upper = before + in_upper >= left;
    search.digit = is_upper ? upper : upper - 1;
    search.above = is_upper ? before : before + in_upper;
  }
  __syncthreads();
  threshold = threshold << Bits | static_cast<uint32_t>(search.digit);
  left -= search.above;
}

__global__ void __launch_bounds__(kThreads) take_kernel(const __grid_constant__ ChooseParams p) {
  __shared__ Search search;
  wait_for_previous_kernel();
  launch_dependents();
  const int token = p.first_token + static_cast<int>(blockIdx.x);
  if (token >= p.query_start[p.num_seqs]) return;  // padding
  const int thread = static_cast<int>(threadIdx.x);
  const int num_keys = p.num_keys(p.positions[token]);
  int32_t* chosen = p.chosen + static_cast<int64_t>(token) * p.most;
  if (num_keys <= p.most) {
    for (int i = thread; i < p.most; i += kThreads) chosen[i] = i < num_keys ? i : -1;
    return;
  }
  const uint32_t* ranks = p.ranks + blockIdx.x * p.rank_stride;
  uint32_t threshold = 0;
  int left = p.most;
  find_digit<21, 11>(ranks, num_keys, search, threshold, left);
  find_digit<10, 11>(ranks, num_keys, search, threshold, left);
  find_digit<0, 10>(ranks, num_keys, search, threshold, left);
  // `left` of those equal to the threshold are taken.

  const int warp = thread / 32, lane = thread % 32;
  const int segment = static_cast<int>(ceil_div(num_keys, kWarps));  // of a warp
  const int begin = min(warp * segment, num_keys), end = min(begin + segment, num_keys);
  int counts[2] = {};  // of ranks above the threshold, equal to it
#pragma unroll 8
  for (int i = begin + lane; i < end; i += 32) {
    const uint32_t rank = ranks[i];
    counts[0] += rank > threshold ? 1 : 0;
    counts[1] += rank == threshold ? 1 : 0;
  }
  exclusive_scans<kWarps>(counts, search.sums);
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
      const bool is_taken = i < end && (own[j] > threshold ||
                                        (is_equal && equal + __popc(equals & lanes_before) < left));
      const unsigned taken = __ballot_sync(0xffffffff, is_taken);
      if (is_taken) chosen[to + __popc(taken & lanes_before)] = i;
      to += __popc(taken);
      equal += __popc(equals);
    }
  }
}

}  // namespace

void take_largest(const ChooseParams& params, const ChooseLaunch& how) {
  launch(take_kernel,
         {.grid = dim3(static_cast<unsigned>(how.num_tokens)),
          .block = dim3(kThreads),
          .stream = how.stream,
          .dependent = how.dependent},
         params);
}

}  // namespace moe4::cuda
