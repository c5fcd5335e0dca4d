// What the CPU's ChooseKeys and ChooseBlocks share: some tokens of a sequence at a time, scores
// made in segments of keys by all threads, and the largest of a row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "ops/batch.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/parallel.h"
#include "ops/op.h"

namespace moe4::choosing {

// Neither is part of the arithmetic: a score is of one query and one key.
inline constexpr int64_t kTokens = 16;
inline constexpr int64_t kSegment = 1024;
static_assert(kSegment % kPageTokens == 0);

/// Up to kTokens tokens of one sequence.
struct Tokens {
  int64_t sequence, first, count;
};

/// run(Tokens) for all tokens of the batch, in their order.
template <class Run>
void for_each_tokens(const Batch& batch, const Run& run) {
  for (int64_t s = 0; s < batch.num_seqs; ++s) {
    const int64_t end = batch.query_start[s + 1];
    for (int64_t first = batch.query_start[s]; first < end; first += kTokens) {
      run(Tokens{s, first, std::min(kTokens, end - first)});
    }
  }
}

/// What a thread reads to score a segment, for parallel_grain(): keys, and queries from the caches.
template <class Problem>
int64_t bytes_of_segment(const Problem& problem) {
  return kSegment * problem.dim * (size_of(problem.cache_dtype) + problem.num_heads / 4);
}

/// score(i, segment, thread) for the tokens i in [begin, end) and all segments of `keys` keys.
template <class Score>
void for_each_segment(int64_t begin, int64_t end, int64_t keys, int64_t bytes, const Stream& stream,
                      const Score& score) {
  const int64_t segments = ceil_div(keys, kSegment), items = segments * (end - begin);
  stream.threads->parallel_for(items, parallel_grain(items, bytes),
                               [&](int64_t from, int64_t to, int thread) {
                                 for (int64_t item = from; item < to; ++item) {
                                   score(begin + item / segments, item % segments, thread);
                                 }
                               });
}

/// dots [num_heads, kPageTokens]: of all heads of a query with `count` keys that begin a page.
template <class Problem>
void dots_of_page(const OpKernels& kernels, const Problem& problem, const std::byte* keys,
                  int64_t count, const float* q, float* dots) {
  kernels.times_transposed({.matrix = keys,
                            .dtype = problem.cache_dtype,
                            .rows = count,
                            .columns = problem.dim,
                            .num_tokens = problem.num_heads,
                            .x = q,
                            .y = dots,
                            .x_stride = problem.dim,
                            .y_stride = kPageTokens});
}

/// chosen [most], rising: where the largest of `scores` [count] are, count > most; equal scores go
/// to the lower place. Scores are numbers. order [count] is overwritten.
inline void take_largest(const float* scores, int64_t count, int64_t most, int32_t* order,
                         int32_t* chosen) {
  std::iota(order, order + count, 0);
  const auto is_before = [&](int32_t i, int32_t j) {
    return scores[i] != scores[j] ? scores[i] > scores[j] : i < j;
  };
  std::nth_element(order, order + most, order + count, is_before);
  std::copy_n(order, most, chosen);
  std::sort(chosen, chosen + most);
}

}  // namespace moe4::choosing
