// The choice among what is left.
#pragma once

#include "device/cuda/ptx/launch.cuh"
#include "ops/sample/cuda/finish_row.cuh"

namespace moe4::cuda {

/// Weights of the logits v[i] of tokens id(i) as far as they are left. By whole warps.
template <typename Id>
__device__ __forceinline__ void weigh_left(const Exponents& exponents, Entry cut,
                                           const float (&v)[kItems], const Id& id,
                                           uint64_t (&weights)[kItems]) {
  uint32_t left = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (entry_of(v[i], id(i)) >= cut && exponents.is_candidate(v[i])) left |= 1u << i;
  }
  exponents.weigh(v, left, weights);
}

/// The token of row r that holds the drawn point, when p.mass has the weights left in each chunk.
/// By the whole block, for all threads.
__device__ __forceinline__ int draw_token(const SampleParams& p, const SampleRow& row, int64_t r,
                                          const float* source, const Exponents& exponents,
                                          Entry cut) {
  static_assert((1 << 19) / kChunk <= kSampleThreads);
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
  // In the order of ids: a thread has kItems neighbours.
  const int begin = found * kChunk + tid * kItems;
  const uint64_t point = found_point;
  float v[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    v[i] = begin + i < p.vocab_size ? source[begin + i] : -INFINITY;
  }
  uint64_t weights[kItems];
  weigh_left(
      exponents, cut, v, [&](int i) { return begin + i; }, weights);
  mass = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) mass += weights[i];
  before = block_scan(mass, total);
  if (before <= point && point < before + mass) {
    int chosen = -1;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      before += weights[i];
      if (chosen < 0 && point < before) chosen = begin + i;
    }
    found = chosen;
  }
  __syncthreads();
  return found;
}

/// Greedy rows need one block only.
__global__ void __launch_bounds__(kSampleThreads) choose_kernel(const SampleParams p) {
  wait_for_previous_kernel();
  launch_dependents();
  const int64_t r = blockIdx.y;
  const SampleRow row = p.rows[r];
  const bool is_first = blockIdx.x == 0;
  if (row.scale == 0) {
    if (!is_first) return;
  } else if (is_truncated(row) && p.state[r].is_done != 0) {
    return;
  }
  RowState& state = p.state[r];
  const Entry cut = row.scale != 0 && is_truncated(row) ? state.cut : 0;
  const float* source = p.source(row, r);
  // Where the chunk's largest is not left, nothing is.
  const bool has_any = row.scale != 0 && p.best[r * p.chunks + blockIdx.x] >= cut;
  float v[kItems];
  if (has_any) load_chunk(p, source, v);
  const Entry best = best_of_row(p, r);
  const bool is_bad = best == kBadEntry;
  if (is_bad || is_nothing(best)) {
    const auto status = is_bad ? SampleStatus::kBadLogits : SampleStatus::kNothingLeft;
    if (is_first) finish_row(p, row, r, status, -1);
    return;
  }
  if (row.scale == 0) return finish_row(p, row, r, SampleStatus::kChosen, id_of(best));

  const Exponents exponents(row, best);
  uint64_t mass = 0;
  if (has_any) {
    uint64_t weights[kItems];
    weigh_left(
        exponents, cut, v, [](int i) { return id_of_item(i); }, weights);
#pragma unroll
    for (int i = 0; i < kItems; ++i) mass += weights[i];
    mass = block_sum(mass);
  }
  if (threadIdx.x == 0) p.mass[r * p.chunks + blockIdx.x] = mass;
  if (!is_last_block(state.counters + 2, p.chunks)) return;
  finish_row(p, row, r, SampleStatus::kChosen, draw_token(p, row, r, source, exponents, cut));
}

}  // namespace moe4::cuda
