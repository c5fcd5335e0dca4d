// Products of tokens with one plain matrix, for any instruction set (included by kernels_<isa>.cc
// after attention_inl.h). A token's result is summed in one order whatever shares the call.
#pragma once

#include "ops/cpu/attention_inl.h"
#include "ops/cpu/kernels.h"

namespace moe4::MOE4_ISA {

// y[t] = x[t] M for Q tokens and W vectors of columns.
template <int Q, int W, typename T>
inline void matrix_tile(const MatrixArgs& a, const T* matrix, const float* x, float* y) {
  Vec sum[Q][W];
  for (auto& q : sum) {
    for (auto& s : q) s = zero();
  }
  for (int64_t i = 0; i < a.rows; ++i) {
    Vec m[W];
    for (int w = 0; w < W; ++w) m[w] = load(matrix + i * a.columns + 16 * w);
    for (int q = 0; q < Q; ++q) {
      const Vec factor = set(x[q * a.x_stride + i]);
      for (int w = 0; w < W; ++w) sum[q][w] = fma(factor, m[w], sum[q][w]);
    }
  }
  for (int q = 0; q < Q; ++q) {
    for (int w = 0; w < W; ++w) store(y + q * a.y_stride + 16 * w, sum[q][w]);
  }
}

template <int Q, int W, typename T>
inline void matrix_columns(const MatrixArgs& a, const T* matrix, const float* x, float* y) {
  int64_t c = 0;
  for (; c + 16 * W <= a.columns; c += 16 * W) matrix_tile<Q, W>(a, matrix + c, x, y + c);
  for (; c < a.columns; c += 16) matrix_tile<Q, 1>(a, matrix + c, x, y + c);
}

template <typename T>
inline void times_matrix_of(const MatrixArgs& a) {
  const auto* matrix = static_cast<const T*>(a.matrix);
  constexpr int Q = kTileRows, W = kTileRows;
  int64_t t = 0;
  for (; t + Q <= a.num_tokens; t += Q) {
    matrix_columns<Q, W>(a, matrix, a.x + t * a.x_stride, a.y + t * a.y_stride);
  }
  // One token needs twice the columns for as many sums in flight.
  for (; t < a.num_tokens; ++t) {
    matrix_columns<1, 2 * W>(a, matrix, a.x + t * a.x_stride, a.y + t * a.y_stride);
  }
}

// y[t] = x[t] M^T for C tokens.
template <int C, typename T>
inline void transposed_tokens(const MatrixArgs& a, const T* matrix, int64_t token) {
  constexpr int R = kTileRows;
  const float* x = a.x + token * a.x_stride;
  float* y = a.y + token * a.y_stride;
  float dots[R * C];
  int64_t i = 0;
  for (; i + R <= a.rows; i += R) {
    dot_tile<R, C>(matrix + i * a.columns, x, a.x_stride, a.columns, dots);
    for (int c = 0; c < C; ++c) {
      for (int r = 0; r < R; ++r) y[c * a.y_stride + i + r] = dots[r * C + c];
    }
  }
  for (; i < a.rows; ++i) {
    dot_tile<1, C>(matrix + i * a.columns, x, a.x_stride, a.columns, dots);
    for (int c = 0; c < C; ++c) y[c * a.y_stride + i] = dots[c];
  }
}

template <typename T>
inline void times_transposed_of(const MatrixArgs& a) {
  const auto* matrix = static_cast<const T*>(a.matrix);
  int64_t t = 0;
  for (; t + kTileTokens <= a.num_tokens; t += kTileTokens) {
    transposed_tokens<kTileTokens>(a, matrix, t);
  }
  for (; t < a.num_tokens; ++t) transposed_tokens<1>(a, matrix, t);
}

inline void times_matrix(const MatrixArgs& a) {
  if (a.dtype == DType::kBF16) {
    times_matrix_of<Bf16>(a);
  } else {
    times_matrix_of<float>(a);
  }
}

inline void times_transposed(const MatrixArgs& a) {
  if (a.dtype == DType::kBF16) {
    times_transposed_of<Bf16>(a);
  } else if (a.dtype == DType::kF16) {
    times_transposed_of<F16>(a);
  } else {
    times_transposed_of<float>(a);
  }
}

}  // namespace moe4::MOE4_ISA
