// How the CPU's recurrent ops find their sequences' states and walk over a ragged batch.
#pragma once

#include <algorithm>
#include <cmath>

#include "device/stream.h"
#include "ops/batch.h"
#include "ops/cpu/parallel.h"

namespace moe4 {

/// log(1 + e^x), linear where the sum cannot be told from x.
inline float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

/// The states of a step's sequences in one layer's cache.
class RecurrentStates {
 public:
  RecurrentStates(const Batch& batch, const LayerCache& cache) : batch_(batch), cache_(cache) {}

  const Batch& batch() const { return batch_; }
  int64_t first_token(int64_t sequence) const { return batch_.query_start[sequence]; }
  int64_t num_tokens(int64_t sequence) const {
    return batch_.query_start[sequence + 1] - batch_.query_start[sequence];
  }
  /// Whether the sequence begins in this step, so that its slot holds what a former owner left.
  bool is_new(int64_t sequence) const {
    return batch_.context_len[sequence] == num_tokens(sequence);
  }
  /// Its slot; only of sequences that have one.
  float* of(int64_t sequence) const {
    const int64_t slot = batch_.tables[cache_.table].state[sequence];
    return reinterpret_cast<float*>(cache_.data + slot * cache_.unit_bytes);
  }

 private:
  const Batch& batch_;
  const LayerCache& cache_;
};

/// Calls work(sequence, token, unit) for `units` of every token that is no padding, in parallel.
/// `bytes`: memory traffic of one call.
template <typename Work>
void for_each_token_unit(const Batch& batch, int64_t units, int64_t bytes, const Stream& stream,
                         const Work& work) {
  const int64_t items = batch.query_start[batch.num_seqs] * units;
  stream.threads->parallel_for(
      items, parallel_grain(items, bytes), [&](int64_t begin, int64_t end, int) {
        const int32_t* const starts = batch.query_start;
        int64_t sequence =
            std::upper_bound(starts, starts + batch.num_seqs + 1, begin / units) - starts - 1;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t token = i / units;
          while (starts[sequence + 1] <= token) ++sequence;
          work(sequence, token, i % units);
        }
      });
}

/// Calls work(sequence, head) for the heads of every sequence that has tokens, in parallel.
/// `bytes_per_token`: memory traffic of one head and token.
template <typename Work>
void for_each_sequence_head(const Batch& batch, int64_t heads, int64_t bytes_per_token,
                            const Stream& stream, const Work& work) {
  const int64_t items = batch.num_seqs * heads;
  if (items == 0) return;
  const int64_t bytes =
      ceil_div(batch.query_start[batch.num_seqs], batch.num_seqs) * bytes_per_token;
  stream.threads->parallel_for(items, parallel_grain(items, bytes),
                               [&](int64_t begin, int64_t end, int) {
                                 for (int64_t i = begin; i < end; ++i) {
                                   const int64_t s = i / heads;
                                   if (batch.query_start[s + 1] > batch.query_start[s])
                                     work(s, i % heads);
                                 }
                               });
}

}  // namespace moe4
