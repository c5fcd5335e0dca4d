// Sequences that generate, in recurrent ops: a state in the registers of 128 threads, and the
// convolution of single channels.
#pragma once

#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/cluster.cuh"
#include "device/cuda/ptx/prefetch.cuh"
#include "ops/cuda/recurrent.cuh"

namespace moe4::cuda {

/// A unit: the threads that hold 32 columns of a head's state of up to 128 rows.
inline constexpr int kUnitThreads = 128, kUnitColumns = 32, kUnitWarps = kUnitThreads / 32;
inline constexpr int kStateRows = 128;
inline constexpr int kMaxUnits = 4;    ///< of a block
inline constexpr int kMaxCluster = 8;  ///< blocks

/// Channels a thread of a block of so many units convolves: two vectors of a head's or a group's
/// keys, and its block's columns.
constexpr int conv_slots(int units) {
  return ceil_div(2 * kStateRows + units * kUnitColumns, units * kUnitThreads);
}
/// Blocks of so many units that an SM shall hold: 96 to 128 KB of states on their way.
constexpr int resident_blocks(int units) { return units == 4 ? 2 : 6 / units; }

__device__ __forceinline__ float dot4(float4 a, float4 b) {
  return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}
__device__ __forceinline__ float4 add4(float4 a, float4 b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}
/// a + x b.
__device__ __forceinline__ float4 add_scaled4(float4 a, float x, float4 b) {
  return {a.x + x * b.x, a.y + x * b.y, a.z + x * b.z, a.w + x * b.w};
}
__device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffff, x, offset);
  return x;
}

/// Eight threads side by side have 8 rows, each four columns, so that a warp reads whole lines.
struct StatePart {
  static constexpr int kRows = kStateRows / 16;
  float4 s[kRows];

  static __device__ int row(int i) {
    return static_cast<int>(threadIdx.x) % kUnitThreads / 8 * kRows + i;
  }
  static __device__ int column() { return static_cast<int>(threadIdx.x) % 8 * 4; }

  /// From `memory`, this thread's columns of row 0, rows `stride` apart; zeros unless `wanted`.
  __device__ __forceinline__ void load(const float* memory, int rows, int stride, bool wanted) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      s[i] = {};
      if (wanted && row(i) < rows) s[i] = load4(memory + row(i) * stride);
    }
  }
  __device__ __forceinline__ void store(float* memory, int rows, int stride, bool wanted) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (wanted && row(i) < rows) store4(memory + row(i) * stride, s[i]);
    }
  }
  /// Of a warp's rows, in all its lanes.
  static __device__ __forceinline__ float4 sum_of_rows(float4 x) {
#pragma unroll
    for (int offset = 8; offset < 32; offset *= 2) {
      x.x += __shfl_xor_sync(0xffffffff, x.x, offset);
      x.y += __shfl_xor_sync(0xffffffff, x.y, offset);
      x.z += __shfl_xor_sync(0xffffffff, x.z, offset);
      x.w += __shfl_xor_sync(0xffffffff, x.w, offset);
    }
    return x;
  }
  /// Over the unit's 32 columns of what its threads have for their four.
  static __device__ __forceinline__ float sum_of_columns(float x) {
#pragma unroll
    for (int offset = 1; offset < 8; offset *= 2) x += __shfl_xor_sync(0xffffffff, x, offset);
    return x;
  }
};

/// The convolution of up to kSlots channels a thread, their inputs of the past in registers.
template <int kSlots, bool kHasBias = true>
struct ChannelConv {
  static constexpr int kTaps = DeviceConv::kMaxTaps;
  int channel[kSlots];  ///< -1: none
  float weight[kSlots][kTaps] = {}, bias[kSlots] = {}, past[kSlots][kTaps - 1] = {};

  __device__ __forceinline__ void load_weights(const DeviceConv& conv) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (channel[i] < 0) continue;
      if (kHasBias && conv.bias != nullptr) bias[i] = conv.bias[channel[i]];
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        if (j < conv.taps) weight[i][j] = conv.weight[j * conv.channels + channel[i]];
      }
    }
  }
  /// Into the L2 the lines of the past in which this thread's channels are.
  __device__ __forceinline__ void prefetch_past(const DeviceConv& conv,
                                                const RecurrentSequence& sequence) const {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
#pragma unroll
      for (int j = 0; j < kTaps - 1; ++j) {
        if (channel[i] >= 0 && j < conv.taps - 1) {
          prefetch_l2(conv.past(sequence, -1 - j, channel[i]));
        }
      }
    }
  }
  /// What is before token `t` of the sequence in this step.
  template <typename In>
  __device__ __forceinline__ void load_past(const DeviceConv& conv,
                                            const RecurrentSequence& sequence, const RowsOf<In>& x,
                                            int t = 0) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
#pragma unroll
      for (int j = 0; j < kTaps - 1; ++j) {
        if (channel[i] >= 0 && j < conv.taps - 1) {
          past[i][j] = conv.input(sequence, x, t - 1 - j, channel[i]);
        }
      }
    }
  }
  /// Slot i after the input `x` of the next token.
  __device__ __forceinline__ float next(int i, const DeviceConv& conv, float x) {
    float sum = fmaf(x, weight[i][0], bias[i]);
#pragma unroll
    for (int j = kTaps - 1; j > 0; --j) {
      if (j < conv.taps) sum = fmaf(past[i][j - 1], weight[i][j], sum);
      if (j > 1) past[i][j - 1] = past[i][j - 2];
    }
    past[i][0] = x;
    return silu(sum);
  }
  __device__ __forceinline__ void keep(int i, const DeviceConv& conv,
                                       const RecurrentSequence& sequence) const {
#pragma unroll
    for (int j = 0; j < kTaps - 1; ++j) {
      if (j < conv.taps - 1) {
        sequence.state[static_cast<int64_t>(conv.taps - 2 - j) * conv.channels + channel[i]] =
            past[i][j];
      }
    }
  }
};

// ---- blocks of a cluster, or one alone ---------------------------------------------------------

/// All blocks of the cluster have begun, once everybody has called both.
__device__ __forceinline__ void greet_cluster(bool in_cluster) {
#if __CUDA_ARCH__ >= 900
  if (in_cluster) arrive_in_cluster();
#endif
}
__device__ __forceinline__ void wait_for_greetings(bool in_cluster) {
#if __CUDA_ARCH__ >= 900
  if (in_cluster) wait_for_cluster();
#endif
}
/// What any thread wrote and read before is before what any does after.
__device__ __forceinline__ void cluster_barrier(bool in_cluster) {
#if __CUDA_ARCH__ >= 900
  if (in_cluster) {
    arrive_in_cluster_releasing();
    wait_for_cluster();
    return;
  }
#endif
  __syncthreads();
}
/// `*to` of block `rank`, or of this block.
__device__ __forceinline__ void store_in_block(float* to, unsigned rank, float x, bool in_cluster) {
#if __CUDA_ARCH__ >= 900
  if (in_cluster) {
    store_in_cluster4(address_in_block(shared_address(to), rank), x);
    return;
  }
#endif
  *to = x;
}

}  // namespace moe4::cuda
