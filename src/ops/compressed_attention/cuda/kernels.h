// What the kernels of CompressedAttention are given, and who launches them.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "device/cuda/divisor.h"
#include "ops/cuda/shared_keys.h"

namespace moe4::cuda {

/// Keys of one cache in pages.
struct KeyPages {
  const std::byte* data = nullptr;
  int64_t page_bytes = 0;
  const int32_t* blocks = nullptr;  // [num_seqs, max_blocks]
  int64_t max_blocks = 0;
};

/// A problem and its call as kernels see them. Scores are in units of log 2.
///
/// A token's keys are counted in their order: those of its window, then shared ones. 64 of them
/// make a partial result, four of these are merged in order to a group, and groups in order to the
/// result, whoever does it: bits depend on the token alone.
struct CompressedParams {
  const float* queries;  // [T, num_heads * head_dim]
  int64_t query_stride;
  std::byte* y;  // [T, num_heads * head_dim]
  int64_t y_stride;
  bool y_is_bf16;
  const float* angles;  // [T, 2 * half]
  int64_t angle_stride;
  int half;

  const int32_t *positions, *query_start;
  int num_seqs, num_tokens;
  KeyPages window_pages, shared_pages;
  int window;
  bool has_shared;
  Divisor by_ratio;
  SharedKeyPlaces places;
  int num_chosen;         // 0: all shared keys
  const int32_t* chosen;  // [T, num_chosen]

  const float* sinks;  // [num_heads], times log2 e
  int num_heads, head_dim;
  float scale;  // of scores, times log2 e

  /// Keys of a block: 2^span_shift, 6 or 8; kAllKeys.
  int span_shift, num_spans;
  // Partial results where num_spans > 1, with i = (token * num_heads + head) * num_spans + span:
  // values [i, head_dim] and [i] {largest score, sum}
  float* values;
  float2* sums;

#ifdef __CUDACC__
  __device__ int window_keys(int position) const { return min(window, position + 1); }
  __device__ int num_keys(int position) const {
    if (!has_shared) return window_keys(position);
    const auto seen = static_cast<int>(by_ratio.divide(static_cast<uint32_t>(position + 1)));
    return window_keys(position) + (num_chosen > 0 ? min(seen, num_chosen) : seen);
  }
#endif
};

inline constexpr int kAllSharedKeys = 30;
inline constexpr int kHeadsOfBlock = 16;

struct CompressedLaunch {
  int num_tiles;  // of 64 keys that a block holds: prepare_compressed()
  cudaStream_t stream;
  bool dependent;
};

/// Lets a block have its shared memory: tiles, 2 or 1. 0: there is not enough.
int prepare_compressed(int64_t head_dim, int max_shared_bytes);
/// Writes y, or partial results where there are several spans.
void attend_compressed(const CompressedParams& params, const CompressedLaunch& how);
/// Merges partial results to y.
void merge_compressed(const CompressedParams& params, const CompressedLaunch& how);

}  // namespace moe4::cuda
