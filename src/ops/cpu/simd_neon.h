// Sixteen floats in four 128-bit registers of AArch64.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "base/cpu_isa.h"
#include "numerics/bf16.h"
#include "numerics/f16.h"

namespace moe4::MOE4_ISA {

inline constexpr CpuIsa kIsa = CpuIsa::kNeon;
// 16 accumulators, 8 keys and 4 queries of 32 registers.
inline constexpr int kTileRows = 2, kTileTokens = 2;

struct Vec {
  float32x4_t v[4];
};

template <typename F>
inline Vec map(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}

inline Vec set(float x) {
  return map([&](int) { return vdupq_n_f32(x); });
}
inline Vec zero() { return set(0.0f); }
inline Vec load(const float* p) {
  return map([&](int i) { return vld1q_f32(p + 4 * i); });
}
inline Vec load(const F16* p) {
  const auto* bits = reinterpret_cast<const uint16_t*>(p);
  return map([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(bits + 4 * i))); });
}
inline Vec load(const Bf16* p) {
  const auto* bits = reinterpret_cast<const uint16_t*>(p);
  return map([&](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(bits + 4 * i), 16)); });
}
inline void store(float* p, const Vec& a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
inline void store(Bf16* p, const Vec& a) {
  for (int i = 0; i < 4; ++i) {
    const uint32x4_t bits = vreinterpretq_u32_f32(a.v[i]);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded =
        vshrq_n_u32(vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd), 16);
    const uint32x4_t quiet = vorrq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(0x40));
    const uint32x4_t number = vceqq_f32(a.v[i], a.v[i]);
    vst1_u16(reinterpret_cast<uint16_t*>(p) + 4 * i, vmovn_u32(vbslq_u32(number, rounded, quiet)));
  }
}
inline void store(F16* p, const Vec& a) {
  for (int i = 0; i < 4; ++i) {
    const float32x4_t clamped =
        vminq_f32(vdupq_n_f32(65504.0f), vmaxq_f32(vdupq_n_f32(-65504.0f), a.v[i]));
    vst1_u16(reinterpret_cast<uint16_t*>(p) + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(clamped)));
  }
}
inline Vec add(const Vec& a, const Vec& b) {
  return map([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
inline Vec sub(const Vec& a, const Vec& b) {
  return map([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
inline Vec mul(const Vec& a, const Vec& b) {
  return map([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
inline Vec div(const Vec& a, const Vec& b) {
  return map([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
inline Vec fma(const Vec& a, const Vec& b, const Vec& c) {
  return map([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline Vec max(const Vec& a, const Vec& b) {
  return map([&](int i) { return vmaxq_f32(a.v[i], b.v[i]); });
}
inline Vec min(const Vec& a, const Vec& b) {
  return map([&](int i) { return vminq_f32(a.v[i], b.v[i]); });
}
inline Vec round_to_integer(const Vec& a) {
  return map([&](int i) { return vrndnq_f32(a.v[i]); });
}
inline Vec exp2_integer(const Vec& n) {
  return map([&](int i) {
    const int32x4_t biased = vaddq_s32(vcvtq_s32_f32(n.v[i]), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
  });
}
inline float reduce_add(const Vec& a) {
  const float32x4_t s4 = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t s2 = vadd_f32(vget_low_f32(s4), vget_high_f32(s4));
  return vget_lane_f32(s2, 0) + vget_lane_f32(s2, 1);
}
inline float reduce_max(const Vec& a) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3])));
}
inline void prefetch(const void* p) { __builtin_prefetch(p); }
inline float square_root(float x) { return __builtin_sqrtf(x); }

}  // namespace moe4::MOE4_ISA
