// The vector type that the kernels shared by all instruction sets are written with.
//
// Each kernels_*.cc includes those kernels and instantiates them with its own Simd type, so the
// compiler makes one version per set of flags. A Simd type gives: kWidth (floats), F and I (GCC
// vector types of that many float / int32), fma(a, b, c), max_lane(I) and sum_lanes(I), widen(p)
// from bytes or 16-bit words, signed or not, narrow(I, p) to bytes, and the tile of the dense
// kernels. Everything lies in an anonymous namespace: the copies of two files must never be merged
// by the linker, since one may use instructions the other's machine lacks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace moe4::cpu {
namespace {

template <typename V, typename T>
inline V load(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <typename V, typename T>
inline void store(T* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

// max_lane, sum_lanes and narrow for vectors short enough to take them apart.
template <typename I, int kWidth>
struct ShortLanes {
  static int32_t max_lane(I v) {
    int32_t most = v[0];
    for (int i = 1; i < kWidth; ++i) most = std::max<int32_t>(most, v[i]);
    return most;
  }
  static int32_t sum_lanes(I v) {
    int32_t sum = 0;
    for (int i = 0; i < kWidth; ++i) sum += v[i];
    return sum;
  }
  static void narrow(I v, int8_t* out) {
    for (int i = 0; i < kWidth; ++i) out[i] = static_cast<int8_t>(v[i]);
  }
};

template <typename Simd>
inline typename Simd::F splat(float x) {
  return x - typename Simd::F{};
}

template <typename To, typename From>
inline To bits_as(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &v, sizeof to);
  return to;
}

}  // namespace
}  // namespace moe4::cpu
