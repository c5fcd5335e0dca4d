// Kernels that are the same source for every instruction set: quantising rows, the activation, the
// epilogues, and the table of all of them (included by kernels_*.cc, see lanes.h).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "numerics/bf16.h"
#include "numerics/e4m3.h"
#include "numerics/nvfp4.h"
#include "panels/block_kernels.h"
#include "panels/dense_kernels.h"
#include "panels/kernels.h"
#include "panels/lanes.h"

namespace moe4::cpu {
namespace {

// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even; so does the same
// with half or twice that number to halves and to even integers.
inline constexpr float kRoundMagic = 12582912.0f;

template <typename Simd>
inline typename Simd::I round_to_int(typename Simd::F x) {
  using I = typename Simd::I;
  const auto shifted = x + splat<Simd>(kRoundMagic);
  return bits_as<I>(shifted) - bits_as<I>(splat<Simd>(kRoundMagic));
}

// e^x for x in [-87, 88]; x = n ln 2 + r, |r| <= ln 2 / 2, Taylor's series of degree 7 (remainder
// 5e-9 of the value; rounding leaves about 2e-7).
template <typename Simd>
inline typename Simd::F exp_clamped(typename Simd::F x) {
  using F = typename Simd::F;
  using I = typename Simd::I;
  const F low = splat<Simd>(-87.0f), high = splat<Simd>(88.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  const F n = (x * 1.44269504f + kRoundMagic) - kRoundMagic;
  F r = x - n * 0.693359375f;  // 10 bits: the product is exact
  r = r - n * -2.12194440e-4f;
  F p = r * (1.0f / 5040.0f) + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const I power = (round_to_int<Simd>(n) + 127) << 23;
  return p * bits_as<F>(power);
}

template <typename Simd>
inline typename Simd::F apply_lanes(const ActivationParams& p, typename Simd::F gate,
                                    typename Simd::F up) {
  using F = typename Simd::F;
  if (p.kind == ActivationKind::kRelu2) {
    const F zero = {};
    up = up <= zero ? zero : up;
    return up * up;
  }
  F argument;
  if (p.kind == ActivationKind::kGeluTanh) {
    // 0.5 (1 + tanh z) = 1 / (1 + e^-2z)
    argument = 1.5957691216f * (gate + 0.044715f * gate * gate * gate);
  } else {
    const F limit = splat<Simd>(p.limit);
    if (p.kind == ActivationKind::kSiluLateClamp) {
      gate = gate / (1.0f + exp_clamped<Simd>(-gate));
    }
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up;
    up = up < -limit ? -limit : up;
    if (p.kind == ActivationKind::kSiluLateClamp) return gate * up;
    argument = p.kind == ActivationKind::kSilu ? gate : p.alpha * gate;
    if (p.kind == ActivationKind::kSwigluOai) up = up + p.beta;
  }
  return gate / (1.0f + exp_clamped<Simd>(-argument)) * up;
}

template <typename Simd>
void activate(const ActivationParams& activation, const ActivateArgs& args) {
  using F = typename Simd::F;
  const bool gated = activation.is_gated();
  for (int64_t t = 0; t < args.num_tokens; ++t) {
    const float* sums = args.sums + t * kPanelRows;
    float* out = args.out + t * args.out_stride;
    for (int i = 0; i < (gated ? 16 : 32); i += Simd::kWidth) {
      F gate = {};
      if (gated) {
        gate = load<F>(sums + i) * args.gate_scale;
        if (args.bias) gate = gate + load<F>(args.bias + i);
      }
      const int at = gated ? 16 + i : i;
      F up = load<F>(sums + at) * args.up_scale;
      if (args.bias) up = up + load<F>(args.bias + at);
      store(out + i, apply_lanes<Simd>(activation, gate, up));
    }
  }
}

template <typename Simd>
inline typename Simd::F abs_lanes(typename Simd::F v) {
  using I = typename Simd::I;
  return bits_as<typename Simd::F>(bits_as<I>(v) & 0x7fffffff);
}

// The magnitude of 16 values: the largest one as the bits of its float, which order like the
// numbers; infinities and NaNs lie above every finite number.
template <typename Simd>
inline int32_t max_magnitude_bits(const float* x, int64_t n) {
  using I = typename Simd::I;
  I most = {};
  int64_t i = 0;
  for (; i + Simd::kWidth <= n; i += Simd::kWidth) {
    const I bits = load<I>(x + i) & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  int32_t result = Simd::max_lane(most);
  for (; i < n; ++i) {
    result = std::max(result, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  }
  return result;
}

inline constexpr int32_t kInfinityBits = 0x7f800000;

template <typename Simd>
void quantize_fp4(const float* x, int64_t k, float global, std::byte* row) {
  using F = typename Simd::F;
  using I = typename Simd::I;
  auto* blocks = reinterpret_cast<Fp4Block*>(row);
  for (int64_t b = 0; b < blocks_of(k); ++b) {
    Fp4Block& block = blocks[b];
    if (b * kBlock >= k) {
      block = Fp4Block{};
      continue;
    }
    const float* in = x + b * kBlock;
    const int32_t bits = max_magnitude_bits<Simd>(in, kBlock);
    const uint8_t scale = bits >= kInfinityBits
                              ? uint8_t{0x7f}
                              : nvfp4_activation_scale(std::bit_cast<float>(bits), {global});
    block.scale = e4m3_to_float(scale);
    const float step = block.scale * global;
    if (!(step > 0)) {
      std::memset(block.twice, 0, sizeof block.twice);
      block.start = 0;
      continue;
    }
    I sum = {};
    for (int i = 0; i < kBlock; i += Simd::kWidth) {
      const F v = load<F>(in + i) / step;
      const F a = abs_lanes<Simd>(v);
      // Steps of 0.5 below 2, 1 below 4 and 2 above; ties go to the even code.
      const F magic = a < 2.0f
                          ? splat<Simd>(kRoundMagic / 2)
                          : (a < 4.0f ? splat<Simd>(kRoundMagic) : splat<Simd>(kRoundMagic * 2));
      F q = (a + magic) - magic;
      q = q > kE2m1Max ? splat<Simd>(kE2m1Max) : q;
      I t = __builtin_convertvector(q * 2.0f, I);
      t = v < 0.0f ? -t : t;
      sum += t;
      Simd::narrow(t, block.twice + i);
    }
    block.start = -kWeightOffset * Simd::sum_lanes(sum);
  }
}

template <typename Simd>
void quantize_int16(const float* x, int64_t k, std::byte* row) {
  using F = typename Simd::F;
  using I = typename Simd::I;
  auto* blocks = reinterpret_cast<Int16Block*>(row);
  std::byte* scales = row + blocks_of(k) * sizeof(Int16Block);
  for (int64_t begin = 0; begin < padded_inputs(k); begin += kInt16Group) {
    const int64_t end = std::min<int64_t>(begin + kInt16Group, k);
    const int32_t bits = end > begin ? max_magnitude_bits<Simd>(x + begin, end - begin) : 0;
    // 2^13 units for the power of two below the largest magnitude; exponents below 20 (2^-107) are
    // as good as zero.
    const int32_t exponent = std::max(bits >> 23, 20);
    float scale = std::bit_cast<float>((exponent - 13) << 23);
    const float inverse = std::bit_cast<float>((267 - exponent) << 23);
    if (bits >= kInfinityBits) scale = std::numeric_limits<float>::quiet_NaN();
    store(scales + begin / kInt16Group * 4, scale);
    const int64_t last = std::min<int64_t>(begin + kInt16Group, padded_inputs(k));
    for (int64_t b = begin / kBlock; b < last / kBlock; ++b) {
      Int16Block& block = blocks[b];
      if (b * kBlock >= k || bits >= kInfinityBits) {
        block = Int16Block{};
        continue;
      }
      I sum = {};
      for (int i = 0; i < kBlock; i += Simd::kWidth) {
        const I rounded = round_to_int<Simd>(load<F>(x + b * kBlock + i) * inverse);
        const I hi = (rounded + 128) >> 8;
        sum += rounded;
        Simd::narrow(hi, block.hi + i);
        Simd::narrow(rounded - (hi << 8), block.lo + i);
      }
      block.start = -kWeightOffset * Simd::sum_lanes(sum);
    }
  }
}

// Rounds to nearest even in place; NaN stays NaN.
template <typename Simd>
inline typename Simd::I bf16_bits(typename Simd::F x) {
  using I = typename Simd::I;
  const I bits = bits_as<I>(x);
  const I odd = (bits >> 16) & 1;
  const I rounded = bits + 0x7fff + odd;
  const I quiet = bits | 0x400000;
  return ((bits & 0x7fffffff) > kInfinityBits ? quiet : rounded) & static_cast<int32_t>(0xffff0000);
}

template <typename Simd>
void load_bf16(const uint16_t* x, int64_t n, float factor, bool round, float* out) {
  using F = typename Simd::F;
  for (int64_t i = 0; i < n; ++i) out[i] = to_float(Bf16{x[i]});
  if (factor == 1.0f) return;
  int64_t i = 0;
  for (; i + Simd::kWidth <= n; i += Simd::kWidth) {
    const F v = load<F>(out + i) * factor;
    store(out + i, round ? bits_as<F>(bf16_bits<Simd>(v)) : v);
  }
  for (; i < n; ++i) out[i] = round ? moe4::round_to_bf16(out[i] * factor) : out[i] * factor;
}

template <typename Simd>
void round_to_bf16_row(float* x, int64_t n) {
  using F = typename Simd::F;
  int64_t i = 0;
  for (; i + Simd::kWidth <= n; i += Simd::kWidth) store(x + i, bf16_bits<Simd>(load<F>(x + i)));
  for (; i < n; ++i) x[i] = moe4::round_to_bf16(x[i]);
}

template <typename Simd>
void scale_panel(const float* sums, float scale, const float* bias, float* y) {
  using F = typename Simd::F;
  for (int i = 0; i < kPanelRows; i += Simd::kWidth) {
    F v = load<F>(sums + i) * scale;
    if (bias) v = v + load<F>(bias + i);
    store(y + i, v);
  }
}

template <typename Simd>
void combine(const float* const* rows, const float* weights, int64_t count, int64_t n, float* out,
             uint16_t* out_bf16) {
  using F = typename Simd::F;
  int64_t i = 0;
  for (; i + Simd::kWidth <= n; i += Simd::kWidth) {
    F sum = {};
    for (int64_t j = 0; j < count; ++j) {
      sum = Simd::fma(load<F>(rows[j] + i), splat<Simd>(weights[j]), sum);
    }
    if (out) {
      store(out + i, sum);
    } else {
      const auto bits = bf16_bits<Simd>(sum);
      for (int lane = 0; lane < Simd::kWidth; ++lane) {
        out_bf16[i + lane] = static_cast<uint16_t>(static_cast<uint32_t>(bits[lane]) >> 16);
      }
    }
  }
  for (; i < n; ++i) {
    float sum = 0;
    for (int64_t j = 0; j < count; ++j) sum = std::fma(rows[j][i], weights[j], sum);
    if (out) {
      out[i] = sum;
    } else {
      out_bf16[i] = to_bf16(sum).bits;
    }
  }
}

template <typename Simd>
constexpr Kernels make_kernels(CpuIsa isa, void (*nvfp4_fp4)(const PanelArgs&),
                               void (*nvfp4_int16)(const PanelArgs&),
                               void (*mxfp4_int16)(const PanelArgs&)) {
  return Kernels{.isa = isa,
                 .nvfp4_fp4 = nvfp4_fp4,
                 .nvfp4_int16 = nvfp4_int16,
                 .mxfp4_int16 = mxfp4_int16,
                 .dense_bf16 = dense<Simd, DecodeBf16>,
                 .dense_f16 = dense<Simd, DecodeF16>,
                 .dense_f32 = dense<Simd, DecodeF32>,
                 .dense_fp8 = dense<Simd, DecodeFp8>,
                 .dense_fp8_groups = dense<Simd, DecodeFp8, GroupScales::kInPanel>,
                 .dense_nvfp4 = dense<Simd, DecodeNvfp4>,
                 .dense_mxfp4 = dense<Simd, DecodeMxfp4>,
                 .dense_q8_0 = dense_blocks<Simd, DecodeQ8_0>,
                 .quantize_fp4 = quantize_fp4<Simd>,
                 .quantize_int16 = quantize_int16<Simd>,
                 .load_bf16 = load_bf16<Simd>,
                 .round_to_bf16 = round_to_bf16_row<Simd>,
                 .activate = activate<Simd>,
                 .scale_panel = scale_panel<Simd>,
                 .combine = combine<Simd>};
}

}  // namespace
}  // namespace moe4::cpu
