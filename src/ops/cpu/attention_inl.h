// Softmax attention over a range of keys with a running maximum, for any instruction set (included
// by kernels_<isa>.cc after elementwise_inl.h).
//
// Keys come in pages of kKeyBlock at fixed positions. Within a block the scores of a query are dot
// products (one vector accumulator each, its lanes added in a fixed tree), the maximum is updated,
// and p = exp(s - max) weights the values, key by key in order. Blocks of which a query sees
// nothing leave its values alone: its result depends on its own position only.
#pragma once

#include "ops/cpu/elementwise_inl.h"
#include "ops/cpu/kernels.h"

namespace moe4::MOE4_ISA {

// out[r * C + c] = key r . query c, both of n elements; queries are `stride` apart.
template <int R, int C, typename T>
inline void dot_tile(const T* keys, const float* queries, int64_t stride, int64_t n, float* out) {
  Vec sum[R][C];
  for (auto& r : sum) {
    for (auto& s : r) s = zero();
  }
  for (int64_t d = 0; d < n; d += 16) {
    Vec key[R];
    for (int r = 0; r < R; ++r) key[r] = load(keys + r * n + d);
    for (int c = 0; c < C; ++c) {
      const Vec query = load(queries + c * stride + d);
      for (int r = 0; r < R; ++r) sum[r][c] = fma(key[r], query, sum[r][c]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) out[r * C + c] = reduce_add(sum[r][c]);
  }
}

// scores[q * kKeyBlock + j] for keys [first_key, end_key) of `keys`.
template <int C, typename T>
inline void score_queries(const AttendArgs& a, const T* keys, int64_t first_key, int64_t end_key,
                          int64_t query, float* scores) {
  constexpr int R = kTileRows;
  float dots[R * C];
  const auto put = [&](int64_t key, int rows) {
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < C; ++c) {
        scores[(query + c) * kKeyBlock + key + r] = dots[r * C + c] * a.scale;
      }
    }
  };
  const float* q = a.queries + query * a.key_dim;
  int64_t j = first_key;
  for (; j + R <= end_key; j += R) {
    dot_tile<R, C>(keys + j * a.key_dim, q, a.key_dim, a.key_dim, dots);
    put(j, R);
  }
  for (; j < end_key; ++j) {
    dot_tile<1, C>(keys + j * a.key_dim, q, a.key_dim, a.key_dim, dots);
    put(j, 1);
  }
}

template <int C, typename T>
inline void score_remaining(const AttendArgs& a, const T* keys, int64_t first_key, int64_t end_key,
                            int64_t query, int64_t queries, float* scores) {
  if constexpr (C > 0) {
    if (queries == C) {
      score_queries<C>(a, keys, first_key, end_key, query, scores);
    } else {
      score_remaining<C - 1>(a, keys, first_key, end_key, query, queries, scores);
    }
  }
}

// acc[q] += sum over keys [0, num_keys) of p[q][j] * value[j], W vectors of columns at a time.
template <int Q, int W, typename T>
inline void add_values(const T* values, int64_t stride, int64_t first, int64_t last, const float* p,
                       float* acc, int64_t acc_stride) {
  Vec sum[Q][W];
  for (int q = 0; q < Q; ++q) {
    for (int w = 0; w < W; ++w) sum[q][w] = load(acc + q * acc_stride + 16 * w);
  }
  for (int64_t j = first; j < last; ++j) {
    Vec value[W];
    for (int w = 0; w < W; ++w) value[w] = load(values + j * stride + 16 * w);
    for (int q = 0; q < Q; ++q) {
      const Vec weight = set(p[q * kKeyBlock + j]);
      for (int w = 0; w < W; ++w) sum[q][w] = fma(weight, value[w], sum[q][w]);
    }
  }
  for (int q = 0; q < Q; ++q) {
    for (int w = 0; w < W; ++w) store(acc + q * acc_stride + 16 * w, sum[q][w]);
  }
}

// The same for all columns of query `query` and the Q - 1 that follow.
template <int Q, typename T>
inline void add_all_columns(const AttendArgs& a, const T* values, int64_t first, int64_t last,
                            const float* scores, int64_t query) {
  constexpr int W = kTileRows;
  const float* p = scores + query * kKeyBlock;
  float* acc = a.accumulators + query * a.value_dim;
  int64_t d = 0;
  for (; d + 16 * W <= a.value_dim; d += 16 * W) {
    add_values<Q, W>(values + d, a.value_stride, first, last, p, acc + d, a.value_dim);
  }
  for (; d < a.value_dim; d += 16) {
    add_values<Q, 1>(values + d, a.value_stride, first, last, p, acc + d, a.value_dim);
  }
}

template <typename T>
inline void attend_keys(const AttendArgs& a) {
  alignas(64) float scores[kMaxQueries * kKeyBlock];
  const float minus_infinity = -__builtin_inff();
  for (int64_t q = 0; q < a.num_queries; ++q) {
    a.max_score[q] = minus_infinity;
    a.sum[q] = 0.0f;
    for (int64_t d = 0; d < a.value_dim; d += 16) {
      store(a.accumulators + q * a.value_dim + d, zero());
    }
  }
  for (int64_t begin = a.key_begin; begin < a.key_end; begin += kKeyBlock) {
    // Query q sees keys [first[q], end[q]) of this block, any query [any_first, any_end), every
    // query [all_first, all_end).
    int64_t first[kMaxQueries], end[kMaxQueries];
    int64_t any_first = kKeyBlock, any_end = 0, all_first = 0, all_end = kKeyBlock;
    for (int64_t q = 0; q < a.num_queries; ++q) {
      int64_t last = a.positions[q] + 1 - begin;
      if (last > a.key_end - begin) last = a.key_end - begin;
      end[q] = last < 0 ? 0 : (last > kKeyBlock ? kKeyBlock : last);
      const int64_t out = a.first_keys != nullptr ? a.first_keys[q] - begin : 0;
      first[q] = out < 0 ? 0 : (out > end[q] ? end[q] : out);
      all_first = first[q] > all_first ? first[q] : all_first;
      all_end = end[q] < all_end ? end[q] : all_end;
      if (first[q] == end[q]) continue;
      any_first = first[q] < any_first ? first[q] : any_first;
      any_end = end[q] > any_end ? end[q] : any_end;
    }
    if (any_end == 0) continue;
    const std::byte* page = a.pages + a.blocks[begin / kKeyBlock] * a.page_bytes;
    const T* keys = reinterpret_cast<const T*>(page + a.key_offset);
    const T* values = reinterpret_cast<const T*>(page + a.value_offset);
    int64_t query = 0;
    for (; query + kTileTokens <= a.num_queries; query += kTileTokens) {
      score_queries<kTileTokens>(a, keys, any_first, any_end, query, scores);
    }
    score_remaining<kTileTokens - 1>(a, keys, any_first, any_end, query, a.num_queries - query,
                                     scores);

    for (int64_t q = 0; q < a.num_queries; ++q) {
      float* s = scores + q * kKeyBlock;
      if (first[q] == end[q]) continue;
      for (int64_t j = 0; j < first[q]; ++j) s[j] = minus_infinity;
      for (int64_t j = end[q]; j < kKeyBlock; ++j) s[j] = minus_infinity;
      Vec largest = set(a.max_score[q]);
      for (int64_t j = 0; j < kKeyBlock; j += 16) largest = max(largest, load(s + j));
      const float new_max = reduce_max(largest);
      const Vec shift = set(new_max);
      alignas(64) float correction[16];
      store(correction, exponential(sub(set(a.max_score[q]), shift)));
      Vec total = zero();
      for (int64_t j = 0; j < kKeyBlock; j += 16) {
        const Vec p = exponential(sub(load(s + j), shift));
        store(s + j, p);
      }
      for (int64_t j = 0; j < first[q]; ++j) s[j] = 0.0f;
      for (int64_t j = end[q]; j < kKeyBlock; ++j) s[j] = 0.0f;
      for (int64_t j = 0; j < kKeyBlock; j += 16) total = add(total, load(s + j));
      a.max_score[q] = new_max;
      a.sum[q] = a.sum[q] * correction[0] + reduce_add(total);
      float* acc = a.accumulators + q * a.value_dim;
      for (int64_t d = 0; d < a.value_dim; d += 16) {
        store(acc + d, mul(load(acc + d), set(correction[0])));
      }
    }
    // Keys that all queries see share their loads, between the rest of each query's.
    constexpr int Q = kTileRows;
    if (all_first >= all_end) all_first = all_end = kKeyBlock;
    const auto add_own = [&](int64_t q, int64_t from, int64_t to) {
      if (from >= to) return;
      add_all_columns<1>(a, values, from, to, scores, q);
    };
    for (int64_t q = 0; q < a.num_queries; ++q) {
      add_own(q, first[q], end[q] < all_first ? end[q] : all_first);
    }
    int64_t q = 0;
    for (; q + Q <= a.num_queries; q += Q) {
      add_all_columns<Q>(a, values, all_first, all_end, scores, q);
    }
    for (; q < a.num_queries; ++q) add_own(q, all_first, all_end);
    for (q = 0; q < a.num_queries; ++q) add_own(q, all_end, end[q]);
  }
}

inline void attend(const AttendArgs& a) {
  if (a.kv_dtype == DType::kF16) {
    attend_keys<F16>(a);
  } else {
    attend_keys<float>(a);
  }
}

}  // namespace moe4::MOE4_ISA
