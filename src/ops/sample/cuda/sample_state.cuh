// What the kernels of Sample hand each other: entries of logits, a row's state and its candidates.
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
/// As many are looked at all at once.
inline constexpr int kSmallList = 2 * kSampleThreads;

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
__device__ __forceinline__ float logit_of(Entry entry) { return logit_of(key_of(entry)); }
__device__ __forceinline__ int id_of(Entry entry) {
  return static_cast<int>(~static_cast<uint32_t>(entry));
}

/// Where the border of what is left lies: bins whose entries are looked at one by one.
struct Region {
  int32_t first_bin, last_bin;
  uint32_t top_k;        // 0: the border is one of weights
  uint64_t mass_before;  // of bins before the first
  uint64_t mass_bound;   // of top_p, where there is no top_k
};

/// Zeros when the first kernel has run.
struct RowState {
  uint64_t mass[kSampleBins];
  uint32_t count[kSampleBins];
  uint32_t counters[3];  // of blocks that are done, one a kernel
  uint32_t list_size;    // may be above kListRoom
  Region region;         // from the histogram
  Entry cut;             // entries from here up are left
  int32_t is_done;       // the row has its token
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

  float* edited;    // [num_edited, V]
  Entry* best;      // [R, chunks], of edited logits
  float* raw_max;   // [R, chunks], of the logits as they came
  double* raw_sum;  // [R, chunks], of exponentials relative to that
  Entry* top;       // [R, chunks, num_top], of the logits as they came
  uint64_t* mass;   // [R, chunks], weights that are left
  RowState* state;  // [R]
  Entry* list;      // [R, kListRoom]

  /// The edited logits of row r.
  __device__ const float* source(const SampleRow& row, int64_t r) const {
    return row.edited >= 0 ? edited + static_cast<int64_t>(row.edited) * vocab_size
                           : logits + r * stride;
  }
};

/// The token of item i of this thread in the block's chunk.
__device__ __forceinline__ int id_of_item(int i) {
  return static_cast<int>(blockIdx.x) * kChunk + static_cast<int>(threadIdx.x) + i * kSampleThreads;
}

/// All loads are on their way together. Tokens past the vocabulary have -infinity.
__device__ __forceinline__ void load_chunk(const SampleParams& p, const float* source,
                                           float (&v)[kItems]) {
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    v[i] = id_of_item(i) < p.vocab_size ? source[id_of_item(i)] : -INFINITY;
  }
}

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

/// Whether the chunks' largest logits alone bound the top_k: at least as many are not below the
/// top_k-th of them.
__device__ __forceinline__ bool has_few(const SampleParams& p, const SampleRow& row) {
  return row.top_k > 0 && row.top_k <= p.chunks;
}

__device__ __forceinline__ bool is_truncated(const SampleRow& row) {
  return row.top_k > 0 || row.top_p < 1.0f;
}

/// Exponents of a row's logits. Most questions about them have an answer in float32, where it is
/// far from doubtful.
struct Exponents {
  float max;
  double scale, least;
  float float_scale, float_least;

  __device__ Exponents(const SampleRow& row, Entry best)
      : max(logit_of(best)),
        scale(row.scale),
        least(row.least),
        float_scale(static_cast<float>(row.scale)),
        float_least(static_cast<float>(row.least)) {}

  __device__ double exponent(float logit) const { return sample_exponent(logit, max, scale); }
  __device__ uint64_t weight(float logit) const { return sample_weight(exponent(logit)); }

  /// Whether the exponent is at least `least`.
  __device__ bool is_candidate(float logit) const {
    // A thousandth is far above the rounding of numbers up to 44. Overflow is a no that is right
    // while the scale is no extreme.
    constexpr float kDoubt = 1e-3f, kExtreme = 1e6f;
    const float e = (logit - max) * float_scale;
    if (float_scale > 1 / kExtreme && float_scale < kExtreme) {
      if (e > float_least + kDoubt) return true;
      if (e < float_least - kDoubt) return false;
    }
    return exponent(logit) >= least;
  }

  /// weights[i] of the logits whose bit i is set in `wanted`, 0 of others. All together, without a
  /// branch, unless the warp wants few: each is a long chain of dependent steps.
  __device__ void weigh(const float (&logits)[kItems], uint32_t wanted,
                        uint64_t (&weights)[kItems]) const {
    if (__any_sync(~0u, __popc(wanted) > 2)) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const uint64_t one = weight(logits[i]);
        weights[i] = (wanted >> i & 1) != 0 ? one : 0;
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      weights[i] = 0;
      if ((wanted >> i & 1) != 0) weights[i] = weight(logits[i]);
    }
  }

  /// Rises as the logit falls.
  __device__ int bin(float logit) const {
    const float per_unit =
        fminf(float_scale * (kSampleBins / static_cast<float>(kWeightBits)), 3e38f);
    const float bin = (max - logit) * per_unit;
    return bin < kSampleBins ? static_cast<int>(bin) : kSampleBins - 1;
  }
};

}  // namespace moe4::cuda
