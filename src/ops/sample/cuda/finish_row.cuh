// What Sample writes of a row when its token is known.
#pragma once

#include "ops/sample/cuda/sample_state.cuh"

namespace moe4::cuda {

/// Writes the log probabilities of row r, whose token is `id`. By the whole block.
__device__ __forceinline__ void write_logprobs(const SampleParams& p, int64_t r, int id) {
  const float* raw_max = p.raw_max + r * p.chunks;
  Entry best = 0;
  for (int c = threadIdx.x; c < p.chunks; c += kSampleThreads) {
    const Entry other = entry_of(raw_max[c], 0);
    best = other > best ? other : best;
  }
  const double max = logit_of(block_max(best));
  double sum = 0;
  for (int c = threadIdx.x; c < p.chunks; c += kSampleThreads) {
    const double of_chunk = p.raw_sum[r * p.chunks + c];
    if (of_chunk > 0) sum += of_chunk * exp(static_cast<double>(raw_max[c]) - max);
  }
  sum = log(block_sum(sum));
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - max - sum);
  };
  if (threadIdx.x == 0) p.logprobs[r] = logprob(p.logits[r * p.stride + id]);
  if (p.num_top == 0) return;
  const int candidates = p.chunks * p.num_top;
  const Entry* top = p.top + r * candidates;
  const auto candidate = [&](int i) {
    const int at = static_cast<int>(threadIdx.x) + i * kSampleThreads;
    return at < candidates ? top[at] : Entry{0};
  };
  block_largest(p.num_top, (candidates + kSampleThreads - 1) / kSampleThreads, candidate,
                [&](int rank, Entry entry) {
                  p.top_ids[r * p.num_top + rank] = id_of(entry);
                  p.top_logprobs[r * p.num_top + rank] = logprob(logit_of(entry));
                });
}

/// By the whole block; `id` is -1 where there is none.
__device__ __forceinline__ void finish_row(const SampleParams& p, const SampleRow& row, int64_t r,
                                           SampleStatus status, int id) {
  if (threadIdx.x == 0) {
    p.ids[r] = id;
    p.status[r] = status;
    if (id >= 0 && row.counts >= 0) {
      int32_t& uses = p.counts[static_cast<int64_t>(row.counts) * p.vocab_size + id];
      uses = uses == 0 ? 2 : uses + 1;
    }
  }
  if (id >= 0 && p.logprobs != nullptr) write_logprobs(p, r, id);
}

}  // namespace moe4::cuda
