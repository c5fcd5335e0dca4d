// What the kernels of Sample hand each other: keys of logits, the state of a row.
#pragma once

#include <cstdint>

#include "ops/sample/cuda/block_values.cuh"
#include "ops/sample/sample_arithmetic.h"

namespace moe4::cuda {

/// Logits of a block: each thread has every 256th of them.
inline constexpr int kItems = 16;
inline constexpr int kChunk = kSampleThreads * kItems;
/// Candidates of a row that are looked at one by one; where there are more, the row is read again.
inline constexpr int kListRoom = 4096;

/// A logit and its token: larger for larger logits, of equals for lower ids. Both zeros are equal.
/// 0 is none, kBadEntry that of a row that cannot be sampled.
using Entry = uint64_t;
inline constexpr Entry kBadEntry = ~Entry{0};

__device__ __forceinline__ uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logit_of(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}
__device__ __forceinline__ Entry entry_of(float logit, int id) {
  return static_cast<Entry>(key_of(logit)) << 32 | ~static_cast<uint32_t>(id);
}
__device__ __forceinline__ uint32_t key_of(Entry entry) {
  return static_cast<uint32_t>(entry >> 32);
}
__device__ __forceinline__ int id_of(Entry entry) {
  return static_cast<int>(~static_cast<uint32_t>(entry));
}

/// Which entries are left: larger keys than `key`, and of that key ids up to `last_id`.
struct Cut {
  uint32_t key;
  int32_t last_id;

  __device__ bool keeps(uint32_t other, int id) const {
    return other > key || (other == key && id <= last_id);
  }
};
inline constexpr Cut kKeepAll{0, INT32_MAX};

/// Zeros when the first kernel has run.
struct RowState {
  uint64_t mass[kSampleBins];
  uint32_t count[kSampleBins];
  uint32_t counters[3];  // of blocks that are done, one a kernel
  uint32_t list_size;    // may be above kListRoom
  // From the histogram: bins whose entries are looked at one by one.
  int32_t first_bin, last_bin;  // first > last: none
  uint32_t top_k;               // 0: all of the bins up to the last stay
  uint64_t mass_before;         // of bins before the first
  uint64_t mass_bound;          // of top_p, where there is no top_k
  Cut cut;
};

struct SampleParams {
  const float* logits;
  int64_t stride;
  int vocab_size, chunks;
  const SampleRow* rows;
  const uint64_t* masks;
  const int32_t* forbidden;
  const LogitBias* biases;
  int32_t* counts;
  int32_t* ids;
  SampleStatus* status;
  float* logprobs;  // null: not wanted
  int num_top;
  int32_t* top_ids;
  float* top_logprobs;

  float* edited;       // [num_edited, V]
  Entry* best;         // [R, chunks], of edited logits
  float* raw_max;      // [R, chunks], of the logits as they came
  uint64_t* raw_mass;  // [R, chunks], weights relative to that at temperature 1
  Entry* top;          // [R, chunks, num_top], of the logits as they came
  uint64_t* mass;      // [R, chunks], weights that are left
  RowState* state;     // [R]
  Entry* list;         // [R, kListRoom]

  /// The edited logits of row r.
  __device__ const float* source(const SampleRow& row, int64_t r) const {
    return row.edited >= 0 ? edited + static_cast<int64_t>(row.edited) * vocab_size
                           : logits + r * stride;
  }
};

/// The largest edited logit of row r, for all threads.
__device__ __forceinline__ Entry best_of_row(const SampleParams& p, int64_t r) {
  Entry best = 0;
  for (int c = threadIdx.x; c < p.chunks; c += kSampleThreads) {
    const Entry other = p.best[r * p.chunks + c];
    best = other > best ? other : best;
  }
  return block_max(best);
}

__device__ __forceinline__ bool is_nothing(Entry best) { return key_of(best) == key_of(-INFINITY); }

__device__ __forceinline__ bool is_truncated(const SampleRow& row) {
  return row.top_k > 0 || row.top_p < 1.0f;
}

}  // namespace moe4::cuda
