// Matrix products of packed rows with activation rows, for any instruction set (included by
// kernels_<isa>.cc after its simd_<isa>.h).
//
// Both operands are row-major along K. One output is one vector accumulator: lane l sums the
// products of k = l, l + 16, l + 32, ... in order, and the lanes are added in a fixed tree, the
// same for one token and for many. With one token a few rows run side by side, so that several
// streams of weights are in flight; with more, a tile of rows x tokens shares every load. FP8 and
// NVFP4 rows are decoded in registers for one token and into a scratch tile (exactly) for more.
#pragma once

#include "layers/kernels.h"

namespace moe4::MOE4_ISA {

// Rows of one format: load(r, k) gives sixteen weights of row r.
template <typename T>
struct PlainRows {
  static constexpr int64_t kPerCacheLine = 64 / sizeof(T);
  const T* data;
  int64_t stride;
  Vec load(int64_t row, int64_t k) const { return MOE4_ISA::load(data + row * stride + k); }
  const void* address(int64_t row, int64_t k) const { return data + row * stride + k; }
};

// The linear's scales carry the factor 256.
struct E4m3Rows {
  static constexpr int64_t kPerCacheLine = 64;
  const uint8_t* data;
  int64_t stride;
  Vec load(int64_t row, int64_t k) const { return load_e4m3_over_256(data + row * stride + k); }
  const void* address(int64_t row, int64_t k) const { return data + row * stride + k; }
};

struct Nvfp4Rows {
  static constexpr int64_t kPerCacheLine = 128;
  const uint8_t* data;
  const uint8_t* scales;
  int64_t stride, scale_stride;
  // code * scale has at most six significant bits: exact.
  Vec load(int64_t row, int64_t k) const {
    return mul(load_e2m1(data + row * stride + k / 2),
               set(kE4m3Table[scales[row * scale_stride + k / 16]]));
  }
  const void* address(int64_t row, int64_t k) const { return data + row * stride + k / 2; }
};

// out[r * C + c] = weights row r . x row c, R rows by C tokens. `block_scale` (or null): R pointers
// to the scale of each 128 elements of K.
template <int R, int C, typename Rows>
inline void dot_tile(const Rows& w, int64_t row, const float* x, int64_t x_stride, int64_t k_size,
                     const float* const* block_scale, float* out) {
  Vec sum[R][C];
  for (auto& r : sum) {
    for (auto& s : r) s = zero();
  }
  const auto accumulate = [&](int64_t begin, int64_t end, Vec(&acc)[R][C]) {
    for (int64_t k = begin; k < end; k += 16) {
      Vec weights[R];
      for (int r = 0; r < R; ++r) weights[r] = w.load(row + r, k);
      if constexpr (C == 1) {
        // The next group of rows, at the same place: far enough ahead of the loads.
        if (k % Rows::kPerCacheLine == 0) {
          for (int r = 0; r < R; ++r) prefetch(w.address(row + R + r, k));
        }
      }
      for (int c = 0; c < C; ++c) {
        const Vec input = load(x + c * x_stride + k);
        for (int r = 0; r < R; ++r) acc[r][c] = fma(weights[r], input, acc[r][c]);
      }
    }
  };
  if (block_scale == nullptr) {
    accumulate(0, k_size, sum);
  } else {
    for (int64_t begin = 0; begin < k_size; begin += 128) {
      Vec part[R][C];
      for (auto& r : part) {
        for (auto& s : r) s = zero();
      }
      accumulate(begin, begin + 128 < k_size ? begin + 128 : k_size, part);
      for (int r = 0; r < R; ++r) {
        const Vec scale = set(block_scale[r][begin / 128]);
        for (int c = 0; c < C; ++c) sum[r][c] = fma(scale, part[r][c], sum[r][c]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) out[r * C + c] = reduce_add(sum[r][c]);
  }
}

// Where the results of rows [first_row, ...) go, and what multiplies them.
struct Epilogue {
  const PackedRows& w;
  float* y;
  int64_t y_stride;

  void put(int64_t row, int64_t token, float dot) const {
    if (w.row_scale != nullptr) dot *= w.row_scale[row];
    if (w.bias != nullptr) dot += w.bias[row];
    y[token * y_stride + row] = dot;
  }
  template <int R>
  bool block_scales(int64_t row, const float* (&pointers)[R]) const {
    if (w.block_scale == nullptr) return false;
    for (int r = 0; r < R; ++r) pointers[r] = w.block_scale + (row + r) / 128 * w.k_blocks;
    return true;
  }
};

// Rows [begin, begin + R) of the linear, which lie at `local` in `w`, for C tokens from `token` on.
template <int R, int C, typename Rows>
inline void put_tile(const Rows& w, int64_t local, int64_t begin, const float* x, int64_t x_stride,
                     int64_t token, const Epilogue& epilogue) {
  const float* scales[R];
  const bool blocks = epilogue.block_scales<R>(begin, scales);
  float dots[R * C];
  dot_tile<R, C>(w, local, x + token * x_stride, x_stride, epilogue.w.k, blocks ? scales : nullptr,
                 dots);
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) epilogue.put(begin + r, token + c, dots[r * C + c]);
  }
}

template <int C, typename Rows>
inline void put_rows(const Rows& w, int64_t local, int64_t begin, int64_t rows, const float* x,
                     int64_t x_stride, int64_t token, const Epilogue& epilogue) {
  constexpr int R = C == 1 ? kVectorRows : kTileRows;
  int64_t r = 0;
  for (; r + R <= rows; r += R) {
    put_tile<R, C>(w, local + r, begin + r, x, x_stride, token, epilogue);
  }
  for (; r < rows; ++r) put_tile<1, C>(w, local + r, begin + r, x, x_stride, token, epilogue);
}

// The last tokens, fewer than a full tile.
template <int C, typename Rows>
inline void put_remaining(const Rows& w, int64_t local, int64_t begin, int64_t rows, const float* x,
                          int64_t x_stride, int64_t token, int64_t tokens,
                          const Epilogue& epilogue) {
  if constexpr (C > 0) {
    if (tokens == C) {
      put_rows<C>(w, local, begin, rows, x, x_stride, token, epilogue);
    } else {
      put_remaining<C - 1>(w, local, begin, rows, x, x_stride, token, tokens, epilogue);
    }
  }
}

// The rows stay in the L2 cache while the tokens pass by.
template <typename Rows>
inline void multiply(const Rows& w, int64_t local, int64_t begin, int64_t rows, const float* x,
                     int64_t x_stride, int64_t num_tokens, const Epilogue& epilogue) {
  int64_t t = 0;
  for (; t + kTileTokens <= num_tokens; t += kTileTokens) {
    put_rows<kTileTokens>(w, local, begin, rows, x, x_stride, t, epilogue);
  }
  put_remaining<kTileTokens - 1>(w, local, begin, rows, x, x_stride, t, num_tokens - t, epilogue);
}

// Formats that have to be decoded: once for all tokens, a few rows at a time.
template <typename Rows>
inline void multiply_decoded(const Rows& w, int64_t begin, int64_t end, const float* x,
                             int64_t x_stride, int64_t num_tokens, const Epilogue& epilogue,
                             float* scratch) {
  const int64_t k_size = epilogue.w.k;
  if (num_tokens == 1) {
    put_rows<1>(w, begin, begin, end - begin, x, x_stride, 0, epilogue);
    return;
  }
  const PlainRows<float> decoded{scratch, k_size};
  for (int64_t row = begin; row < end; row += kScratchRows) {
    const int64_t rows = end - row < kScratchRows ? end - row : kScratchRows;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < k_size; k += 16) store(scratch + r * k_size + k, w.load(row + r, k));
    }
    multiply(decoded, 0, row, rows, x, x_stride, num_tokens, epilogue);
  }
}

inline void linear(const PackedRows& w, const float* x, int64_t x_stride, int64_t num_tokens,
                   int64_t begin, int64_t end, float* y, int64_t y_stride, float* scratch) {
  const Epilogue epilogue{w, y, y_stride};
  const int64_t rows = end - begin;
  switch (w.format) {
    case RowFormat::kF32: {
      const PlainRows<float> all{reinterpret_cast<const float*>(w.data), w.row_bytes / 4};
      multiply(all, begin, begin, rows, x, x_stride, num_tokens, epilogue);
      return;
    }
    case RowFormat::kBF16: {
      const PlainRows<Bf16> all{reinterpret_cast<const Bf16*>(w.data), w.row_bytes / 2};
      multiply(all, begin, begin, rows, x, x_stride, num_tokens, epilogue);
      return;
    }
    case RowFormat::kF8: {
      const E4m3Rows all{reinterpret_cast<const uint8_t*>(w.data), w.row_bytes};
      multiply_decoded(all, begin, end, x, x_stride, num_tokens, epilogue, scratch);
      return;
    }
    case RowFormat::kNvfp4: {
      const Nvfp4Rows all{reinterpret_cast<const uint8_t*>(w.data), w.scales, w.row_bytes,
                          w.k / 16};
      multiply_decoded(all, begin, end, x, x_stride, num_tokens, epilogue, scratch);
      return;
    }
  }
}

}  // namespace moe4::MOE4_ISA
