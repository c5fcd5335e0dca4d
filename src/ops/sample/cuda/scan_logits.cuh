// The first look at logits: edits, the largest, and what log probabilities need. A block a chunk of
// a row.
#pragma once

#include "device/cuda/ptx/launch.cuh"
#include "ops/sample/cuda/sample_state.cuh"

namespace moe4::cuda {

/// Edits the block's logits: `v` has those of ids begin + threadIdx.x + i * 256.
__device__ __forceinline__ void edit_chunk(const SampleParams& p, const SampleRow& row, int begin,
                                           float (&v)[kItems]) {
  __shared__ float chunk[kChunk];
  const int tid = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int id = begin + tid + i * kSampleThreads;
    if (row.mask >= 0 && id < p.vocab_size) {
      const int64_t words = (p.vocab_size + 63) / 64;
      const uint64_t word = p.masks[row.mask * words + id / 64];
      if ((word >> (id % 64) & 1) == 0) v[i] = -INFINITY;
    }
    chunk[tid + i * kSampleThreads] = v[i];
  }
  __syncthreads();
  const int end = min(begin + kChunk, p.vocab_size);
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
  float* edited = p.edited + static_cast<int64_t>(row.edited) * p.vocab_size;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int id = begin + tid + i * kSampleThreads;
    if (id >= p.vocab_size) continue;
    v[i] = chunk[tid + i * kSampleThreads];
    if (row.counts >= 0) {
      const int32_t uses = p.counts[static_cast<int64_t>(row.counts) * p.vocab_size + id];
      v[i] = penalized_logit(v[i], row, uses);
    }
    edited[id] = v[i];
  }
}

template <bool kLogprobs>
__global__ void __launch_bounds__(kSampleThreads) scan_logits_kernel(const SampleParams p) {
  wait_for_previous_kernel();
  launch_dependents();
  const int64_t r = blockIdx.y;
  const int tid = static_cast<int>(threadIdx.x);
  const int begin = static_cast<int>(blockIdx.x) * kChunk;
  const int64_t at = r * p.chunks + blockIdx.x;
  const float* logits = p.logits + r * p.stride;
  float v[kItems];
  bool bad = false;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int id = begin + tid + i * kSampleThreads;
    v[i] = id < p.vocab_size ? logits[id] : -INFINITY;
  }
  if (blockIdx.x == 0) {
    auto* const words = reinterpret_cast<uint32_t*>(p.state + r);
    for (int i = tid; i < static_cast<int>(sizeof(RowState) / 4); i += kSampleThreads) words[i] = 0;
  }
  const auto largest = [&] {
    Entry best = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int id = begin + tid + i * kSampleThreads;
      const Entry entry = id < p.vocab_size ? entry_of(v[i], id) : 0;
      best = entry > best ? entry : best;
    }
    return block_max(best);
  };
#pragma unroll
  for (int i = 0; i < kItems; ++i) bad |= !(v[i] < INFINITY);
  if (__syncthreads_or(bad)) {
    if (tid == 0) p.best[at] = kBadEntry;
    return;
  }
  if constexpr (kLogprobs) {
    const float max = logit_of(key_of(largest()));
    uint64_t mass = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const double e = sample_exponent(v[i], max, std::numbers::log2e);
      mass += e >= -kWeightBits ? sample_weight(e) : 0;
    }
    mass = block_sum(mass);
    if (tid == 0) {
      p.raw_max[at] = max;
      p.raw_mass[at] = mass;
    }
    const auto entry = [&](int i) {
      const int id = begin + tid + i * kSampleThreads;
      return id < p.vocab_size ? entry_of(v[i], id) : Entry{0};
    };
    if (p.num_top > 0) {
      block_largest(p.num_top, kItems, entry,
                    [&](int rank, Entry best) { p.top[at * p.num_top + rank] = best; });
    }
  }
  if (p.rows[r].edited >= 0) edit_chunk(p, p.rows[r], begin, v);
  const Entry best = largest();
  if (tid == 0) p.best[at] = best;
}

}  // namespace moe4::cuda
