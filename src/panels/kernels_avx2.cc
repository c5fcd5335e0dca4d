// AVX2 kernels of the CPU: vpmaddubsw where AVX-512 has vpdpbusd, eight rows a register.
//
// Sums of 16-bit products stay within 16 bits over a block: weights are at most 24, FP4 activations
// at most 12 (8 pairs: 16 * 24 * 12 = 4608) and half of an int16 activation at most 128 in
// magnitude (8 pairs of one row lane: 4 * 2 * 24 * 128 = 24576), so one vpmaddwd a block widens to
// 32 bits.
#include <immintrin.h>

#include "panels/row_kernels.h"

namespace moe4::cpu {
namespace {

typedef int32_t Int8 __attribute__((vector_size(32)));

struct Avx2 : ShortLanes<Int8, 8> {
  static constexpr int kWidth = 8;
  static constexpr int kDenseVectors = 2, kDenseTokens = 6;
  typedef float F __attribute__((vector_size(32)));
  using I = Int8;
  static F fma(F a, F b, F c) {
    return reinterpret_cast<F>(_mm256_fmadd_ps(
        reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
  }
  static I widen(const int8_t* p) {
    return reinterpret_cast<I>(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static I widen(const uint8_t* p) {
    return reinterpret_cast<I>(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static I widen(const uint16_t* p) {
    return reinterpret_cast<I>(
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
};

constexpr int kTile = 4;

// Eight rows (strip 0..3 of the panel) x 16 inputs.
struct Block {
  __m256i w[4];
  __m256 scale;
};

template <class Unit>
inline Block decode_block(const std::byte* unit, int b, int strip) {
  const __m256i table = _mm256_broadcastsi128_si256(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(kOffsetTwiceE2m1)));
  const __m256i nibble = _mm256_set1_epi8(15);
  const int half = strip / 2, offset = strip % 2;
  Block out;
  for (int v = 0; v < 2; ++v) {
    const __m256i codes = _mm256_load_si256(
        reinterpret_cast<const __m256i*>(unit + 128 * (2 * b + half) + 64 * v + 32 * offset));
    out.w[2 * v] = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, nibble));
    out.w[2 * v + 1] =
        _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble));
  }
  const __m256i bytes = _mm256_cvtepu8_epi32(
      _mm_loadl_epi64(reinterpret_cast<const __m128i*>(unit + Unit::scales(b, half) + 8 * offset)));
  out.scale = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(bytes, Unit::kScaleShift),
                                                   _mm256_set1_epi32(Unit::kScaleBias)));
  return out;
}

inline __m256i broadcast4(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}

inline __m256i dot16(const Block& block, const int8_t* a) {
  __m256i pairs = _mm256_maddubs_epi16(block.w[0], broadcast4(a));
  for (int j = 1; j < 4; ++j) {
    pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(block.w[j], broadcast4(a + 4 * j)));
  }
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

template <int N>
void fp4_strip(const PanelArgs& args, int strip, int64_t first_token) {
  const int64_t units = padded_inputs(args.in_features) / kUnitInputs;
  const Fp4Block* row[N];
  __m256 total[N];
  for (int t = 0; t < N; ++t) {
    row[t] = reinterpret_cast<const Fp4Block*>(args.rows[first_token + t]);
    total[t] = _mm256_setzero_ps();
  }
  for (int64_t u = 0; u < units; ++u) {
    for (int b = 0; b < 2; ++b) {
      const Block block = decode_block<Nvfp4Unit>(args.panel + u * Nvfp4Unit::kBytes, b, strip);
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) {
        const Fp4Block& a = row[t][2 * u + b];
        const __m256i sum = _mm256_add_epi32(dot16(block, a.twice), _mm256_set1_epi32(a.start));
        total[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum),
                                   _mm256_mul_ps(block.scale, _mm256_set1_ps(a.scale)), total[t]);
      }
    }
  }
  for (int t = 0; t < N; ++t) {
    _mm256_store_ps(args.sums + (first_token + t) * kPanelRows + 8 * strip, total[t]);
  }
}

template <class Unit, int N>
void int16_strip(const PanelArgs& args, int strip, int64_t first_token) {
  const int64_t units = padded_inputs(args.in_features) / kUnitInputs;
  constexpr int64_t kGroupUnits = kInt16Group / kUnitInputs;
  const int64_t row_scales = 2 * units * static_cast<int64_t>(sizeof(Int16Block));
  const std::byte* const* rows = args.rows + first_token;
  __m256 total[N];
  for (int t = 0; t < N; ++t) total[t] = _mm256_setzero_ps();
  for (int64_t begin = 0; begin < units; begin += kGroupUnits) {
    __m256 group[N];
    for (int t = 0; t < N; ++t) group[t] = _mm256_setzero_ps();
    for (int64_t u = begin; u < std::min(begin + kGroupUnits, units); ++u) {
      for (int b = 0; b < 2; ++b) {
        const Block block = decode_block<Unit>(args.panel + u * Unit::kBytes, b, strip);
#pragma GCC unroll 4
        for (int t = 0; t < N; ++t) {
          const Int16Block& a = reinterpret_cast<const Int16Block*>(rows[t])[2 * u + b];
          const __m256i high = _mm256_slli_epi32(dot16(block, a.hi), 8);
          const __m256i low = _mm256_add_epi32(dot16(block, a.lo), _mm256_set1_epi32(a.start));
          group[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(high, low)), block.scale,
                                     group[t]);
        }
      }
    }
    for (int t = 0; t < N; ++t) {
      float scale;
      std::memcpy(&scale, rows[t] + row_scales + 4 * (begin / kGroupUnits), 4);
      total[t] = _mm256_fmadd_ps(group[t], _mm256_set1_ps(scale), total[t]);
    }
  }
  for (int t = 0; t < N; ++t) {
    _mm256_store_ps(args.sums + (first_token + t) * kPanelRows + 8 * strip, total[t]);
  }
}

template <class Unit, bool kInt16, int N>
void panel_strips(const PanelArgs& args, int64_t first_token) {
  for (int strip = 0; strip < 4; ++strip) {
    if constexpr (kInt16) {
      int16_strip<Unit, N>(args, strip, first_token);
    } else {
      fp4_strip<N>(args, strip, first_token);
    }
  }
}

template <class Unit, bool kInt16>
void fp4_panel(const PanelArgs& args) {
  for (int64_t first = 0; first < args.num_tokens; first += kTile) {
    switch (std::min<int64_t>(kTile, args.num_tokens - first)) {
      case 1:
        panel_strips<Unit, kInt16, 1>(args, first);
        break;
      case 2:
        panel_strips<Unit, kInt16, 2>(args, first);
        break;
      case 3:
        panel_strips<Unit, kInt16, 3>(args, first);
        break;
      default:
        panel_strips<Unit, kInt16, 4>(args, first);
        break;
    }
  }
}

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels kernels =
      make_kernels<Avx2>(CpuIsa::kAvx2, fp4_panel<Nvfp4Unit, false>, fp4_panel<Nvfp4Unit, true>,
                         fp4_panel<Mxfp4Unit, true>);
  return kernels;
}

}  // namespace moe4::cpu
