// The first look at logits: edits, the largest, and what log probabilities need. A block a chunk of
// a row.
#pragma once

#include "device/cuda/ptx/launch.cuh"
#include "ops/sample/cuda/sample_state.cuh"

namespace moe4::cuda {

/// Edits the block's logits.
__device__ __forceinline__ void edit_chunk(const SampleParams& p, const SampleRow& row,
                                           float (&v)[kItems]) {
  __shared__ float chunk[kChunk];
  const int tid = static_cast<int>(threadIdx.x);
  if (row.mask >= 0) {
    // The 32 tokens of a warp's item are half a word.
    const int64_t words = (p.vocab_size + 63) / 64;
    const auto* bits = reinterpret_cast<const uint32_t*>(p.masks + row.mask * words);
    uint32_t halves[kItems];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      halves[i] = id_of_item(i) < p.vocab_size ? bits[id_of_item(i) / 32] : 0;
    }
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if ((halves[i] >> tid % 32 & 1) == 0) v[i] = -INFINITY;
    }
  }
  int32_t uses[kItems] = {};
  if (row.counts >= 0) {
    const int32_t* counts = p.counts + static_cast<int64_t>(row.counts) * p.vocab_size;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      uses[i] = id_of_item(i) < p.vocab_size ? counts[id_of_item(i)] : 0;
    }
  }
  if (row.num_forbidden > 0 || row.num_biases > 0) {
    const int begin = static_cast<int>(blockIdx.x) * kChunk;
    const int end = min(begin + kChunk, p.vocab_size);
#pragma unroll
    for (int i = 0; i < kItems; ++i) chunk[tid + i * kSampleThreads] = v[i];
    __syncthreads();
    for (int i = tid; i < row.num_forbidden; i += kSampleThreads) {
      const int id = p.forbidden[row.first_forbidden + i];
      if (id >= begin && id < end) chunk[id - begin] = -INFINITY;
    }
    __syncthreads();
    for (int i = tid; i < row.num_biases; i += kSampleThreads) {
      const LogitBias bias = p.biases[row.first_bias + i];
      if (bias.id >= begin && bias.id < end) {
        chunk[bias.id - begin] = biased_logit(chunk[bias.id - begin], bias.bias);
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kItems; ++i) v[i] = chunk[tid + i * kSampleThreads];
  }
  float* edited = p.edited + static_cast<int64_t>(row.edited) * p.vocab_size;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    v[i] = penalized_logit(v[i], row, uses[i]);
    if (id_of_item(i) < p.vocab_size) edited[id_of_item(i)] = v[i];
  }
}

/// The sum of e^(v - max) over the block: float32, in a fixed order.
__device__ __forceinline__ double sum_of_exponentials(const float (&v)[kItems], float max) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kItems; ++i) sum += __expf(v[i] - max);
  return block_sum(static_cast<double>(sum));
}

/// kEdited: some row has edits.
template <bool kLogprobs, bool kEdited>
__global__ void __launch_bounds__(kSampleThreads) scan_logits_kernel(const SampleParams p) {
  wait_for_previous_kernel();
  launch_dependents();
  const int64_t r = blockIdx.y;
  const int tid = static_cast<int>(threadIdx.x);
  const int64_t at = r * p.chunks + blockIdx.x;
  float v[kItems];
  load_chunk(p, p.logits + r * p.stride, v);
  const bool is_edited = kEdited && p.rows[r].edited >= 0;
  if (blockIdx.x == 0) {
    auto* const words = reinterpret_cast<uint32_t*>(p.state + r);
    for (int i = tid; i < static_cast<int>(sizeof(RowState) / 4); i += kSampleThreads) words[i] = 0;
  }
  const auto entry = [&](int i) {
    return id_of_item(i) < p.vocab_size ? entry_of(v[i], id_of_item(i)) : Entry{0};
  };
  const auto largest = [&] {
    Entry best = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) best = entry(i) > best ? entry(i) : best;
    return block_max(best);
  };
  bool bad = false;
#pragma unroll
  for (int i = 0; i < kItems; ++i) bad |= !(v[i] < INFINITY);
  if (__syncthreads_or(bad)) {
    if (tid == 0) p.best[at] = kBadEntry;
    return;
  }
  Entry best = largest();
  if constexpr (kLogprobs) {
    const float max = logit_of(best);
    const double sum = max > -INFINITY ? sum_of_exponentials(v, max) : 0.0;
    if (tid == 0) {
      p.raw_max[at] = max;
      p.raw_sum[at] = sum;
    }
    if (p.num_top > 0) {
      block_largest(p.num_top, kItems, entry,
                    [&](int rank, Entry found) { p.top[at * p.num_top + rank] = found; });
    }
  }
  if constexpr (kEdited) {
    if (is_edited) {
      edit_chunk(p, p.rows[r], v);
      best = largest();
    }
  }
  if (tid == 0) p.best[at] = best;
}

}  // namespace moe4::cuda
