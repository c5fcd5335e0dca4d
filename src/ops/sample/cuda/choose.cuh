// The choice among what is left, and the log probabilities of it.
#pragma once

#include "device/cuda/ptx/launch.cuh"
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
  const double max = logit_of(key_of(block_max(best)));
  double sum = 0;
  for (int c = threadIdx.x; c < p.chunks; c += kSampleThreads) {
    const uint64_t mass = p.raw_mass[r * p.chunks + c];
    if (mass > 0) sum += static_cast<double>(mass) * exp(static_cast<double>(raw_max[c]) - max);
  }
  sum = log(block_sum(sum) * (1.0 / (uint64_t{1} << kWeightBits)));
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
                  p.top_logprobs[r * p.num_top + rank] = logprob(logit_of(key_of(entry)));
                });
}

/// Writes what there is to say of row r. By the whole block.
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

/// The token of row r that holds the drawn point, when `mass` has the weights left in each chunk.
/// By the whole block, for all threads.
template <typename WeightAt>
__device__ __forceinline__ int draw_token(const SampleParams& p, const SampleRow& row, int64_t r,
                                          const WeightAt& weight_at) {
  __shared__ int found;
  __shared__ uint64_t found_point;
  const int tid = static_cast<int>(threadIdx.x);
  uint64_t mass = tid < p.chunks ? __ldcg(p.mass + r * p.chunks + tid) : 0;
  uint64_t total;
  uint64_t before = block_scan(mass, total);
  const uint64_t drawn = drawn_point(row.random, total);
  if (before <= drawn && drawn < before + mass) {
    found = tid;
    found_point = drawn - before;
  }
  __syncthreads();
  const int begin = found * kChunk + tid * kItems;
  const uint64_t point = found_point;
  uint64_t weights[kItems];
  mass = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) mass += weights[i] = weight_at(begin + i);
  before = block_scan(mass, total);
  if (before <= point && point < before + mass) {
    bool is_found = false;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (!is_found && point < before + weights[i]) {
        is_found = true;
        found = begin + i;
      }
      before += weights[i];
    }
  }
  __syncthreads();
  return found;
}

/// Greedy rows need one block only.
__global__ void __launch_bounds__(kSampleThreads) choose_kernel(const SampleParams p) {
  static_assert((1 << 19) / kChunk <= kSampleThreads);
  wait_for_previous_kernel();
  launch_dependents();
  const int64_t r = blockIdx.y;
  const SampleRow row = p.rows[r];
  const bool is_first = blockIdx.x == 0;
  if (row.scale == 0 && !is_first) return;
  const Entry best = best_of_row(p, r);
  const bool is_bad = best == kBadEntry;
  if (is_bad || is_nothing(best)) {
    const auto status = is_bad ? SampleStatus::kBadLogits : SampleStatus::kNothingLeft;
    if (is_first) finish_row(p, row, r, status, -1);
    return;
  }
  if (row.scale == 0) return finish_row(p, row, r, SampleStatus::kChosen, id_of(best));

  RowState& state = p.state[r];
  const Cut cut = is_truncated(row) ? state.cut : kKeepAll;
  const float* source = p.source(row, r);
  const float max = logit_of(key_of(best));
  const auto weight_of = [&](int id, float logit) {
    const double e = sample_exponent(logit, max, row.scale);
    return e >= row.least && cut.keeps(key_of(logit), id) ? sample_weight(e) : 0;
  };
  float v[kItems];
  uint64_t mass = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int id =
        static_cast<int>(blockIdx.x) * kChunk + static_cast<int>(threadIdx.x) + i * kSampleThreads;
    v[i] = id < p.vocab_size ? source[id] : -INFINITY;
  }
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int id =
        static_cast<int>(blockIdx.x) * kChunk + static_cast<int>(threadIdx.x) + i * kSampleThreads;
    mass += weight_of(id, v[i]);
  }
  mass = block_sum(mass);
  if (threadIdx.x == 0) p.mass[r * p.chunks + blockIdx.x] = mass;
  if (!is_last_block(state.counters + 2, p.chunks)) return;
  const int id = draw_token(p, row, r, [&](int token) {
    return token < p.vocab_size ? weight_of(token, source[token]) : 0;
  });
  finish_row(p, row, r, SampleStatus::kChosen, id);
}

}  // namespace moe4::cuda
