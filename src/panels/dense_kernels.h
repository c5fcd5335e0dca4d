// Products of dense panels (BF16, F16, F32, FP8) and of NVFP4 and MXFP4 panels decoded to float32
// with float rows, for any instruction set.
//
// sums[t][r] = sum over groups g of 128 inputs of  (sum over k in g of w[r][k] * x[t][k]) * scale
//
// Lanes are rows, so nothing is summed across lanes, and a token's sum runs along K in one order
// whatever the number of tokens. Up to Simd::kDenseTokens tokens, weights are decoded in registers
// and pass through once (decode, bound by memory). More tokens share a group decoded to float32, 16
// KiB that stay in L1, and a tile of kDenseVectors vectors of rows x kDenseTokens tokens keeps its
// sums in registers: loads of weights and broadcasts of x hide behind the multiply-adds.
#pragma once

#include <algorithm>
#include <type_traits>

#include "panels/kernels.h"
#include "panels/lanes.h"

namespace moe4::cpu {
namespace {

// `Decode` turns kWidth stored elements into floats, or the rows of kInputs inputs at once.

template <typename Simd>
struct DecodeF32 {
  using Stored = float;
  static constexpr int kInputs = 1;
  static typename Simd::F at(const float* p) { return load<typename Simd::F>(p); }
};

template <typename Simd>
struct DecodeBf16 {
  using Stored = uint16_t;
  static constexpr int kInputs = 1;
  static typename Simd::F at(const uint16_t* p) {
    return bits_as<typename Simd::F>(Simd::widen(p) << 16);
  }
};

template <typename Simd>
struct DecodeF16 {
  using Stored = uint16_t;
  static constexpr int kInputs = 1;
  // Shifted into a float's place the exponent is 112 too small; the product is exact, subnormal
  // halves included. Infinities and NaNs do not occur in weights (the packer refuses them).
  static typename Simd::F at(const uint16_t* p) {
    const auto half = Simd::widen(p);
    const auto magnitude = bits_as<typename Simd::F>((half & 0x7fff) << 13) * 0x1p112f;
    return bits_as<typename Simd::F>(bits_as<typename Simd::I>(magnitude) |
                                     ((half & 0x8000) << 16));
  }
};

template <typename Simd>
struct DecodeFp8 {
  using Stored = int8_t;
  static constexpr int kInputs = 1;
  // A sign-extended byte shifted by 20 has its sign where a float wants it and four copies below,
  // which are cleared; the exponent is 120 too small.
  static typename Simd::F at(const int8_t* p) {
    const auto bits = (Simd::widen(p) << 20) & static_cast<int32_t>(0x87f00000);
    return bits_as<typename Simd::F>(bits) * 0x1p120f;
  }
};

// Mark panels of E2M1 codes: decoded a group at a time (decode_fp4_group), never in registers.
template <typename Simd>
struct DecodeNvfp4 {
  using Stored = uint8_t;
  using Unit = Nvfp4Unit;
};
template <typename Simd>
struct DecodeMxfp4 {
  using Stored = uint8_t;
  using Unit = Mxfp4Unit;
};

/// Where a panel's float32 scales per 128 inputs are: nowhere, or after its elements.
enum class GroupScales { kNone, kInPanel };

// How far ahead of the loads memory is asked for where weights pass through once; the hardware's
// prefetchers alone keep too few lines in flight once there is arithmetic between the loads.
constexpr int64_t kDensePrefetchBytes = 4096;

// One group of 128 inputs as the tiles see it.
template <typename Stored>
struct DenseGroup {
  const Stored* weights;
  int64_t inputs;
  int64_t first_input;
  const float* scales;    // [32] or null
  const std::byte* next;  // what to prefetch while this group is worked on
  int64_t next_bytes;     // of it per input
};

// w[i][v] = vector v of the rows of input i, from p on.
template <typename Simd, typename Decode, int V>
inline void decode_inputs(const typename Decode::Stored* p,
                          typename Simd::F (&w)[Decode::kInputs][V]) {
  if constexpr (Decode::kInputs == 1) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) w[0][v] = Decode::at(p + v * Simd::kWidth);
  } else {
    Decode::at(p, w);
  }
}

// V vectors of rows from `row` on times N tokens; sums: [N][32].
template <typename Simd, typename Decode, int V, int N>
inline void dense_tile(const DenseGroup<typename Decode::Stored>& g, int row,
                       const std::byte* const* rows, float* sums) {
  using F = typename Simd::F;
  const auto* weights = g.weights + row;
  const float* x[N];
  F sum[N][V];
#pragma GCC unroll 12
  for (int t = 0; t < N; ++t) {
    x[t] = reinterpret_cast<const float*>(rows[t]) + g.first_input;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[t][v] = F{};
  }
  for (int64_t k = 0; k < g.inputs; k += Decode::kInputs) {
    F w[Decode::kInputs][V];
    decode_inputs<Simd, Decode, V>(weights + k * kPanelRows, w);
    __builtin_prefetch(g.next + k * g.next_bytes);
#pragma GCC unroll 2
    for (int i = 0; i < Decode::kInputs; ++i) {
#pragma GCC unroll 12
      for (int t = 0; t < N; ++t) {
        const F input = splat<Simd>(x[t][k + i]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[t][v] = Simd::fma(w[i][v], input, sum[t][v]);
      }
    }
  }
#pragma GCC unroll 12
  for (int t = 0; t < N; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      float* total = sums + t * kPanelRows + row + v * Simd::kWidth;
      const F before = g.first_input == 0 ? F{} : load<F>(total);
      store(total, g.scales == nullptr
                       ? before + sum[t][v]
                       : Simd::fma(sum[t][v], load<F>(g.scales + row + v * Simd::kWidth), before));
    }
  }
}

template <typename Simd, typename Decode, int N>
void dense_tiles(const DenseGroup<typename Decode::Stored>& g, const std::byte* const* rows,
                 float* sums) {
  for (int row = 0; row < kPanelRows; row += Simd::kDenseVectors * Simd::kWidth) {
    dense_tile<Simd, Decode, Simd::kDenseVectors, N>(g, row, rows, sums);
  }
}

template <typename Simd, typename Decode, int N = Simd::kDenseTokens>
inline void dense_tokens(const DenseGroup<typename Decode::Stored>& g, const std::byte* const* rows,
                         int64_t tokens, float* sums) {
  if (tokens == N) {
    dense_tiles<Simd, Decode, N>(g, rows, sums);
  } else if constexpr (N > 1) {
    dense_tokens<Simd, Decode, N - 1>(g, rows, tokens, sums);
  }
}

// All tokens of a call, in tiles of nearly equal size.
template <typename Simd, typename Decode>
void dense_all_tokens(const DenseGroup<typename Decode::Stored>& g, const PanelArgs& args) {
  const int64_t tiles = ceil_div(args.num_tokens, Simd::kDenseTokens);
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t t = i * args.num_tokens / tiles;
    dense_tokens<Simd, Decode>(g, args.rows + t, (i + 1) * args.num_tokens / tiles - t,
                               args.sums + t * kPanelRows);
  }
}

// [inputs][32] elements to floats.
template <typename Simd, typename Decode>
void decode_group(const typename Decode::Stored* weights, int64_t inputs, float* out) {
  constexpr int kVectors = kPanelRows / Simd::kWidth;
  for (int64_t k = 0; k < inputs; k += Decode::kInputs) {
    typename Simd::F w[Decode::kInputs][kVectors];
    decode_inputs<Simd, Decode, kVectors>(weights + k * kPanelRows, w);
    for (int i = 0; i < Decode::kInputs; ++i) {
      for (int v = 0; v < kVectors; ++v) {
        store(out + (k + i) * kPanelRows + v * Simd::kWidth, w[i][v]);
      }
    }
  }
}

// `inputs` inputs of an NVFP4 or MXFP4 panel, from a whole unit on, to [inputs][32] floats: code *
// scale has at most six significant bits, so it is exact.
template <typename Simd, class Unit>
void decode_fp4_group(const std::byte* units, int64_t inputs, float* out) {
  using F = typename Simd::F;
  using I = typename Simd::I;
  for (int64_t block = 0; block < inputs / kBlock; ++block) {
    const std::byte* unit = units + block / 2 * Unit::kBytes;
    const int b = static_cast<int>(block % 2);
    for (int r = 0; r < kPanelRows; r += Simd::kWidth) {
      const int part = 2 * b + r / 16;
      const I bytes =
          Simd::widen(reinterpret_cast<const uint8_t*>(unit) + Unit::scales(b, r / 16) + r % 16);
      const F scale = bits_as<F>((bytes << Unit::kScaleShift) + Unit::kScaleBias) * 0x1p6f;
      for (int j = 0; j < kBlock; ++j) {
        const I word = load<I>(unit + 128 * part + 64 * (j / 8) + 4 * (r % 16));
        const I code = word >> (8 * (j % 4) + 4 * (j / 4 % 2));
        // The code's exponent and mantissa in a float's place are its value times 2^-126.
        const F magnitude = bits_as<F>((code & 7) << 22) * 0x1p120f * scale;
        store(out + (block * kBlock + j) * kPanelRows + r,
              bits_as<F>(bits_as<I>(magnitude) | ((code & 8) << 28)));
      }
    }
  }
}

template <typename Simd, template <typename> class DecodeFormat,
          GroupScales kScales = GroupScales::kNone>
void dense(const PanelArgs& args) {
  using Decode = DecodeFormat<Simd>;
  using Stored = typename Decode::Stored;
  constexpr bool kFp4 = requires { typename Decode::Unit; };
  constexpr bool kStoredAsFloat = std::is_same_v<Stored, float>;
  constexpr int64_t kInputBytes = []() -> int64_t {
    if constexpr (kFp4) return Decode::Unit::kBytes / kUnitInputs;
    return kPanelRows * static_cast<int64_t>(sizeof(Stored));
  }();
  const int64_t inputs = padded_inputs(args.in_features);
  const auto* weights = reinterpret_cast<const Stored*>(args.panel);
  const auto* scales = reinterpret_cast<const float*>(weights + inputs * kPanelRows);
  auto* decoded = reinterpret_cast<float*>(args.scratch);
  static_assert(kDenseGroup * kPanelRows * static_cast<int64_t>(sizeof(float)) <= kScratchBytes);
  for (int64_t begin = 0; begin < inputs; begin += kDenseGroup) {
    const int64_t n = std::min<int64_t>(kDenseGroup, inputs - begin);
    const float* group_scales =
        kScales == GroupScales::kInPanel ? scales + begin / kDenseGroup * kPanelRows : nullptr;
    if constexpr (!kFp4) {
      if (kStoredAsFloat || args.num_tokens <= Simd::kDenseTokens) {
        const auto* at = args.panel + begin * kInputBytes;
        dense_all_tokens<Simd, Decode>({weights + begin * kPanelRows, n, begin, group_scales,
                                        at + kDensePrefetchBytes, kInputBytes},
                                       args);
        continue;
      }
    }
    if constexpr (kFp4) {
      using Unit = typename Decode::Unit;
      decode_fp4_group<Simd, Unit>(args.panel + begin / kUnitInputs * Unit::kBytes, n, decoded);
    } else {
      decode_group<Simd, Decode>(weights + begin * kPanelRows, n, decoded);
    }
    dense_all_tokens<Simd, DecodeF32<Simd>>(
        {decoded, n, begin, group_scales, args.panel + (begin + n) * kInputBytes, kInputBytes},
        args);
  }
}

}  // namespace
}  // namespace moe4::cpu
