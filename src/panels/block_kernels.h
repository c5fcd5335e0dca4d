// Products of panels of ggml's blocks with float rows, for any instruction set.
//
// Weights are decoded to the float32 numbers that ggml's reference makes of them and then go the
// way of an F32 panel (dense_kernels.h), in the same order: the sums have the same bits. Up to
// Simd::kDenseTokens tokens decode in registers, more share a group of 128 inputs decoded in L1.
//
// A format says, for the panels of packed_layout.h, kPiece, the inputs that share a factor (a
// divisor of 128), kInputBytes, the mean of a panel's bytes for an input, and how one group of 128
// inputs is decoded:
//   Rows<V>(panel, begin, row): V vectors of rows from `row` on, of the group that begins there
//     piece(first): goes to inputs [first, first + kPiece) of the group
//     at(k, w): the weights of the piece's input k
#pragma once

#include <algorithm>

#include "panels/dense_kernels.h"
#include "panels/kernels.h"
#include "panels/lanes.h"

namespace moe4::cpu {
namespace {

template <typename Simd>
struct DecodeQ8_0 {
  using F = typename Simd::F;
  static constexpr int kPiece = kUnitInputs;
  static constexpr int64_t kInputBytes = Q8_0Unit::kBytes / kUnitInputs;
  template <int V>
  class Rows {
   public:
    Rows(const std::byte* panel, int64_t begin, int row)
        : units_(panel + begin / kUnitInputs * Q8_0Unit::kBytes), row_(row) {}
    void piece(int64_t first) {
      const std::byte* unit = units_ + first / kUnitInputs * Q8_0Unit::kBytes;
      codes_ = reinterpret_cast<const int8_t*>(unit) + row_;
      const auto* scales = reinterpret_cast<const uint16_t*>(unit + Q8_0Unit::kScales) + row_;
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) scale_[v] = DecodeF16<Simd>::at(scales + v * Simd::kWidth);
    }
    void at(int k, F (&w)[V]) const {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const auto code = Simd::widen(codes_ + k * kPanelRows + v * Simd::kWidth);
        w[v] = __builtin_convertvector(code, F) * scale_[v];
      }
    }

   private:
    const std::byte* units_;
    const int8_t* codes_ = nullptr;
    int row_;
    F scale_[V] = {};
  };
};

// Inputs [begin, begin + inputs) of V vectors of rows from `row` on times N tokens; sums: [N][32].
template <typename Simd, class Format, int V, int N>
inline void block_tile(const std::byte* panel, int64_t begin, int64_t inputs, int row,
                       const std::byte* const* rows, float* sums) {
  using F = typename Simd::F;
  const float* x[N];
  F sum[N][V];
#pragma GCC unroll 12
  for (int t = 0; t < N; ++t) {
    x[t] = reinterpret_cast<const float*>(rows[t]) + begin;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[t][v] = F{};
  }
  typename Format::template Rows<V> weights(panel, begin, row);
  const std::byte* next = panel + begin * Format::kInputBytes + kDensePrefetchBytes;
  for (int64_t first = 0; first < inputs; first += Format::kPiece) {
    weights.piece(first);
    for (int k = 0; k < Format::kPiece; ++k) {
      F w[V];
      weights.at(k, w);
      __builtin_prefetch(next + (first + k) * Format::kInputBytes);
#pragma GCC unroll 12
      for (int t = 0; t < N; ++t) {
        const F input = splat<Simd>(x[t][first + k]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[t][v] = Simd::fma(w[v], input, sum[t][v]);
      }
    }
  }
#pragma GCC unroll 12
  for (int t = 0; t < N; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      float* total = sums + t * kPanelRows + row + v * Simd::kWidth;
      const F before = begin == 0 ? F{} : load<F>(total);  // -0 becomes 0, as in dense_tile()
      store(total, before + sum[t][v]);
    }
  }
}

template <typename Simd, class Format, int N = Simd::kDenseTokens>
inline void block_tokens(const PanelArgs& args, int64_t begin, int64_t inputs) {
  if (args.num_tokens == N) {
    for (int row = 0; row < kPanelRows; row += Simd::kDenseVectors * Simd::kWidth) {
      block_tile<Simd, Format, Simd::kDenseVectors, N>(args.panel, begin, inputs, row, args.rows,
                                                       args.sums);
    }
  } else if constexpr (N > 1) {
    block_tokens<Simd, Format, N - 1>(args, begin, inputs);
  }
}

// To [inputs][32] floats.
template <typename Simd, class Format>
void decode_blocks(const std::byte* panel, int64_t begin, int64_t inputs, float* out) {
  using F = typename Simd::F;
  constexpr int V = Simd::kDenseVectors;
  for (int row = 0; row < kPanelRows; row += V * Simd::kWidth) {
    typename Format::template Rows<V> weights(panel, begin, row);
    for (int64_t first = 0; first < inputs; first += Format::kPiece) {
      weights.piece(first);
      for (int k = 0; k < Format::kPiece; ++k) {
        F w[V];
        weights.at(k, w);
        for (int v = 0; v < V; ++v) {
          store(out + (first + k) * kPanelRows + row + v * Simd::kWidth, w[v]);
        }
      }
    }
  }
}

template <typename Simd, template <typename> class DecodeFormat>
void dense_blocks(const PanelArgs& args) {
  using Format = DecodeFormat<Simd>;
  static_assert(kDenseGroup % Format::kPiece == 0);
  auto* decoded = reinterpret_cast<float*>(args.scratch);
  for (int64_t begin = 0; begin < args.in_features; begin += kDenseGroup) {
    const int64_t n = std::min<int64_t>(kDenseGroup, args.in_features - begin);
    if (args.num_tokens <= Simd::kDenseTokens) {
      block_tokens<Simd, Format>(args, begin, n);
      continue;
    }
    decode_blocks<Simd, Format>(args.panel, begin, n, decoded);
    dense_all_tokens<Simd, DecodeF32<Simd>>(
        {decoded, n, begin, nullptr, args.panel + (begin + n) * Format::kInputBytes,
         Format::kInputBytes},
        args);
  }
}

}  // namespace
}  // namespace moe4::cpu
