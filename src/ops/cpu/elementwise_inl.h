// Norms, gates and the short convolution, for any instruction set (included by kernels_<isa>.cc).
#pragma once

#include "ops/cpu/kernels.h"

namespace moe4::MOE4_ISA {

// e^x within 2 units in the last place; NaN stays, the result never overflows past e^88.
inline Vec exponential(Vec x) {
  x = min(set(88.0f), max(set(-87.0f), x));
  const Vec n = round_to_integer(mul(x, set(0x1.715476p0f)));  // x / ln 2
  // ln 2 in two parts: n * the first is exact.
  const Vec r = fma(n, set(0x1.7f7d1cp-20f * -1.0f), fma(n, set(-0x1.62e4p-1f), x));
  // e^r on |r| <= ln 2 / 2, Taylor to r^7 / 5040.
  Vec p = set(1.0f / 5040);
  for (float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1.0f, 1.0f}) {
    p = fma(p, r, set(coefficient));
  }
  return mul(p, exp2_integer(n));
}

inline Vec sigmoid(Vec x) { return div(set(1.0f), add(set(1.0f), exponential(sub(zero(), x)))); }

inline float sum_of_squares(const float* x, int64_t n) {
  Vec sum = zero();
  for (int64_t i = 0; i < n; i += 16) {
    const Vec v = load(x + i);
    sum = fma(v, v, sum);
  }
  return reduce_add(sum);
}

inline void rms_norm(const float* in, const float* weight, float eps, int64_t n, float* out) {
  const float mean = sum_of_squares(in, n) / static_cast<float>(n);
  const Vec factor = set(1.0f / square_root(mean + eps));
  for (int64_t i = 0; i < n; i += 16) {
    store(out + i, mul(mul(load(in + i), factor), load(weight + i)));
  }
}

inline void l2_norm(const float* in, float eps, float factor, int64_t n, float* out) {
  const Vec scale = set(1.0f / square_root(sum_of_squares(in, n) + eps) * factor);
  for (int64_t i = 0; i < n; i += 16) store(out + i, mul(load(in + i), scale));
}

inline void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    const Vec g = load(gate + i);
    store(out + i, mul(mul(g, sigmoid(g)), load(up + i)));
  }
}

inline void relu2(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    const Vec positive = max(zero(), load(x + i));
    store(out + i, mul(positive, positive));
  }
}

inline void sigmoid_mul(float* x, const float* gate, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) store(x + i, mul(load(x + i), sigmoid(load(gate + i))));
}

inline void axpy(float factor, const float* x, int64_t n, float* y) {
  const Vec f = set(factor);
  for (int64_t i = 0; i < n; i += 16) store(y + i, fma(f, load(x + i), load(y + i)));
}

inline void convert_to_bf16(const float* in, int64_t n, Bf16* out) {
  for (int64_t i = 0; i < n; i += 16) store(out + i, load(in + i));
}

inline void convert_to_f16(const float* in, int64_t n, F16* out) {
  for (int64_t i = 0; i < n; i += 16) store(out + i, load(in + i));
}

inline void conv_silu(const float* const* rows, const float* weight, int64_t weight_stride,
                      const float* bias, int64_t taps, int64_t n, float* out) {
  for (int64_t c = 0; c < n; c += 16) {
    Vec sum = load(bias + c);
    for (int64_t j = 0; j < taps; ++j) {
      sum = fma(load(weight + j * weight_stride + c), load(rows[j] + c), sum);
    }
    store(out + c, mul(sum, sigmoid(sum)));
  }
}

}  // namespace moe4::MOE4_ISA
