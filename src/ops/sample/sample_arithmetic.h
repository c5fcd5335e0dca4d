// The arithmetic of sampling, the same to the bit on every device: single roundings of IEEE
// operations, never fused, and integers.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "numerics/host_device.h"
#include "ops/sample/sample.h"

namespace moe4 {

/// The largest weight of a row is 2^44: 2^19 of them add up below 2^64, exactly.
inline constexpr int kWeightBits = 44;

namespace internal {

MOE4_HOST_DEVICE inline double mul(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}
MOE4_HOST_DEVICE inline double add(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}
MOE4_HOST_DEVICE inline float mul(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
MOE4_HOST_DEVICE inline float add(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
MOE4_HOST_DEVICE inline float div(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

/// Infinities would make NaNs of probabilities.
MOE4_HOST_DEVICE inline float cut(float x) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  return x > kLargest ? kLargest : x;
}

}  // namespace internal

MOE4_HOST_DEVICE inline float biased_logit(float logit, float bias) {
  return internal::cut(internal::add(logit, bias));
}

/// `uses`: as in Sample::Args::counts.
MOE4_HOST_DEVICE inline float penalized_logit(float logit, const SampleRow& row, int32_t uses) {
  if (uses == 0) return logit;
  logit = internal::cut(logit < 0 ? internal::mul(logit, row.repetition_penalty)
                                  : internal::div(logit, row.repetition_penalty));
  if (uses == 1) return logit;
  const float n = static_cast<float>(uses - 1);
  logit = internal::add(logit, -internal::mul(row.frequency_penalty, n));
  return internal::cut(internal::add(logit, -row.presence_penalty));  // negative penalties add
}

/// Never rises where the logit falls. In double, where no difference of logits overflows.
MOE4_HOST_DEVICE inline double sample_exponent(float logit, float max, double scale) {
  return internal::mul(internal::add(static_cast<double>(logit), -static_cast<double>(max)), scale);
}

/// 2^44 * 2^e for -44 <= e <= 0: the nearest integer to it but for the error of the polynomial,
/// Taylor's up to x^10 around the nearest integer of e, below 2^-41.
MOE4_HOST_DEVICE inline uint64_t sample_weight(double e) {
  constexpr double kRounding = 0x1.8p52;  // doubles near it have units of 1
  const double rounded = internal::add(e, kRounding);
  const double f = internal::add(e, -internal::add(rounded, -kRounding));  // |f| <= 1/2
  // ln(2)^n / n!
  constexpr double kCoefficients[] = {7.054911620801123e-09,
                                      1.0178086009239699e-07,
                                      1.3215486790144309e-06,
                                      1.5252733804059840e-05,
                                      1.5403530393381609e-04,
                                      1.3333558146428443e-03,
                                      9.6181291076284770e-03,
                                      5.5504108664821580e-02,
                                      2.4022650695910070e-01,
                                      6.9314718055994530e-01,
                                      1.0};
  double p = kCoefficients[0];
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (int i = 1; i < 11; ++i) p = internal::add(internal::mul(p, f), kCoefficients[i]);
  const int64_t n = std::bit_cast<int64_t>(rounded) - std::bit_cast<int64_t>(kRounding);
  const double power = std::bit_cast<double>((n + kWeightBits + 1023) << 52);
  constexpr double kUnit = 0x1p52;
  const double shifted = internal::add(internal::mul(p, power), kUnit);
  return static_cast<uint64_t>(std::bit_cast<int64_t>(shifted) - std::bit_cast<int64_t>(kUnit));
}

/// Exponents from 0 down to -44 in bins, which rise as the exponent falls: where to look for a
/// border.
inline constexpr int kSampleBins = 512;
MOE4_HOST_DEVICE inline int sample_bin(double e) {
  const int bin = static_cast<int>(internal::mul(e, -kSampleBins / double{kWeightBits}));
  return bin < kSampleBins ? bin : kSampleBins - 1;
}

/// What must lie in front of a token that top_p drops.
MOE4_HOST_DEVICE inline uint64_t top_p_mass(uint64_t total, float top_p) {
  const double bound =
      internal::mul(static_cast<double>(static_cast<int64_t>(total)), static_cast<double>(top_p));
  const auto whole = static_cast<uint64_t>(bound);
  const uint64_t mass = whole + (static_cast<double>(static_cast<int64_t>(whole)) < bound ? 1 : 0);
  return mass > 0 ? mass : 1;
}

/// floor(random * total / 2^64), below `total`.
MOE4_HOST_DEVICE inline uint64_t drawn_point(uint64_t random, uint64_t total) {
#ifdef __CUDA_ARCH__
  return __umul64hi(random, total);
#else
  const uint64_t a = random >> 32, b = random & 0xffffffff, c = total >> 32, d = total & 0xffffffff;
  const uint64_t middle = a * d + (b * d >> 32);
  return a * c + (middle >> 32) + ((b * c + (middle & 0xffffffff)) >> 32);
#endif
}

}  // namespace moe4
