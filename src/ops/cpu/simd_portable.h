// Sixteen floats in plain C++: the definition that the vector versions follow lane by lane.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "base/cpu_isa.h"
#include "numerics/bf16.h"
#include "numerics/f16.h"

namespace moe4::MOE4_ISA {

inline constexpr CpuIsa kIsa = CpuIsa::kPortable;
// Tile of attention: keys x queries accumulators that stay in registers.
inline constexpr int kTileRows = 2, kTileTokens = 2;

struct Vec {
  float v[16];
};

template <typename F>
inline Vec map(F f) {
  Vec r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return r;
}

inline Vec set(float x) {
  return map([&](int) { return x; });
}
inline Vec zero() { return set(0.0f); }
inline Vec load(const float* p) {
  return map([&](int i) { return p[i]; });
}
inline Vec load(const F16* p) {
  return map([&](int i) { return to_float(p[i]); });
}
inline Vec load(const Bf16* p) {
  return map([&](int i) { return to_float(p[i]); });
}
inline void store(float* p, const Vec& a) {
  for (int i = 0; i < 16; ++i) p[i] = a.v[i];
}
inline void store(Bf16* p, const Vec& a) {
  for (int i = 0; i < 16; ++i) p[i] = to_bf16(a.v[i]);
}
inline void store(F16* p, const Vec& a) {
  for (int i = 0; i < 16; ++i) p[i] = to_f16(a.v[i]);
}
inline Vec add(const Vec& a, const Vec& b) {
  return map([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec sub(const Vec& a, const Vec& b) {
  return map([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec mul(const Vec& a, const Vec& b) {
  return map([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec div(const Vec& a, const Vec& b) {
  return map([&](int i) { return a.v[i] / b.v[i]; });
}
// a * b + c; the vector instruction sets round once, the baseline twice.
inline Vec fma(const Vec& a, const Vec& b, const Vec& c) {
  return map([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
// A NaN in `b` stays.
inline Vec max(const Vec& a, const Vec& b) {
  return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec min(const Vec& a, const Vec& b) {
  return map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec round_to_integer(const Vec& a) {
  // Adding 1.5 * 2^23 leaves an integer in the last place (ties to even) for |a| < 2^22.
  return map([&](int i) {
    volatile float shifted = a.v[i] + 0x1.8p23f;
    return shifted - 0x1.8p23f;
  });
}
// 2^n for integral n in [-126, 127].
inline Vec exp2_integer(const Vec& n) {
  return map([&](int i) {
    return std::bit_cast<float>(static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23);
  });
}
// The tree of every version: halves are added until one is left.
inline float reduce_add(const Vec& a) {
  float s[8];
  for (int i = 0; i < 8; ++i) s[i] = a.v[i] + a.v[i + 8];
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}
inline float reduce_max(const Vec& a) {
  float m = a.v[0];
  for (int i = 1; i < 16; ++i) m = a.v[i] > m ? a.v[i] : m;
  return m;
}
inline void prefetch(const void* p) { __builtin_prefetch(p); }
inline float square_root(float x) { return __builtin_sqrtf(x); }

}  // namespace moe4::MOE4_ISA
