// The Simd type (lanes.h) of 512-bit registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace moe4::cpu {
namespace {

struct Avx512 {
  static constexpr int kWidth = 16;
  static constexpr int kDenseVectors = 2, kDenseTokens = 12;
  typedef float F __attribute__((vector_size(64)));
  typedef int32_t I __attribute__((vector_size(64)));
  static F fma(F a, F b, F c) {
    return reinterpret_cast<F>(_mm512_fmadd_ps(
        reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
  }
  static int32_t max_lane(I v) { return _mm512_reduce_max_epi32(reinterpret_cast<__m512i>(v)); }
  static int32_t sum_lanes(I v) { return _mm512_reduce_add_epi32(reinterpret_cast<__m512i>(v)); }
  static void narrow(I v, int8_t* out) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(v)));
  }
  static I widen(const int8_t* p) {
    return reinterpret_cast<I>(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static I widen(const uint8_t* p) {
    return reinterpret_cast<I>(
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static I widen(const uint16_t* p) {
    return reinterpret_cast<I>(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
  }
};

}  // namespace
}  // namespace moe4::cpu
