// AVX-512 VNNI kernels of the CPU (Cascade Lake, Ice Lake, Zen 4 and later).
//
// sums[t][r] = sum over blocks b of  dot(w[r][b], a[t][b]) * weight_scale[r][b] * row_scale[t][b]
//
// A zmm holds 16 rows x 4 inputs of decoded weights, so a block of 16 inputs x 16 rows is four of
// them and one token's block costs four vpdpbusd (int8 rows) or eight (int16 rows, high and low
// bytes apart) plus the conversion and the scaling. The tile is 32 rows x up to 8 tokens: 16 float
// accumulators, 8 registers of weights, the rest for integer accumulators and broadcasts. Two
// panels halves and several tokens give at least 8 independent chains of dependent vpdpbusd, enough
// to hide their latency of 4 to 5 cycles.
//
// Up to kTile tokens weights are decoded in registers and pass through once: the decode shape,
// bound by memory. More tokens share a decoded piece of the panel (512 inputs, 20 KiB, in L1). Both
// walk along K in the same order with the same operations, so a token's bits do not depend on the
// path.
#include "panels/row_kernels.h"
#include "panels/simd_avx512.h"

namespace moe4::cpu {
namespace {

constexpr int kTile = 8;
constexpr int kPieceUnits = 16;                     // 512 inputs, two groups of int16 rows
constexpr int kDecodedBlockBytes = 2 * (256 + 64);  // two halves: weights, then scales
// The hardware's prefetchers alone keep too few lines in flight once there is arithmetic between
// the loads, so each line is asked for in time. Twice: with many misses on their way a core drops
// such requests (on Zen 4 a few percent), and each line lost this way stalls the kernel for a whole
// trip to memory. The second request, half as far ahead, costs nothing where the first one did its
// work. Once only, the best distance was 6 % slower, others 15 % and more.
constexpr int kFirstRequest = 14, kSecondRequest = 8;  // units ahead
static_assert(kPieceUnits * 2 * kDecodedBlockBytes <= kScratchBytes);
static_assert(kPieceUnits * kUnitInputs % kInt16Group == 0);

// Sixteen inputs of the panel's two halves.
struct Block {
  __m512i w[2][4];
  __m512 scale[2];
};

inline __m512i code_table() {
  return _mm512_broadcast_i32x4(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(kOffsetTwiceE2m1)));
}

template <class Unit>
inline __m512 decode_scales(const std::byte* p) {
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512i bits = _mm512_slli_epi32(bytes, Unit::kScaleShift);
  return _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(Unit::kScaleBias)));
}

// Inlined always: GCC 12 takes a function that only prefetches for one without effect and drops
// calls of it.
template <class Unit>
[[gnu::always_inline]] inline void prefetch_unit(const std::byte* unit) {
  for (int i = 0; i < Unit::kBytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(unit) + i, _MM_HINT_T1);
  }
}

// Block b of a unit, from codes. `next` is what follows after the last unit.
template <class Unit>
struct Packed {
  const std::byte* at;
  explicit Packed(const std::byte* p) : at(p) {}
  static constexpr int kUnitStride = Unit::kBytes;
  [[gnu::always_inline]] void prefetch(int64_t unit, int64_t units, const std::byte* next) const {
    prefetch_unit<Unit>(ahead(unit, units, next, kFirstRequest));
    prefetch_unit<Unit>(ahead(unit, units, next, kSecondRequest));
  }
  const std::byte* ahead(int64_t unit, int64_t units, const std::byte* next, int by) const {
    const int64_t past = unit + by - units;
    return past < 0 ? at + by * Unit::kBytes : next + past * Unit::kBytes;
  }
  Block block(int b) const {
    const __m512i table = code_table();
    const __m512i nibble = _mm512_set1_epi8(15);
    Block out;
    for (int h = 0; h < 2; ++h) {
      for (int v = 0; v < 2; ++v) {
        const __m512i codes = _mm512_loadu_si512(at + 128 * (2 * b + h) + 64 * v);
        out.w[h][2 * v] = _mm512_shuffle_epi8(table, _mm512_and_si512(codes, nibble));
        out.w[h][2 * v + 1] =
            _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble));
      }
      out.scale[h] = decode_scales<Unit>(at + Unit::scales(b, h));
    }
    return out;
  }
};

// The same from a decoded piece. Its first tile asks for the packed units that follow, a unit at a
// time: in one burst they would fill the queue of misses and stall the decoder.
template <class Unit>
struct Decoded {
  const std::byte* at;
  explicit Decoded(const std::byte* p) : at(p) {}
  static constexpr int kUnitStride = 2 * kDecodedBlockBytes;
  [[gnu::always_inline]] static void prefetch(int64_t unit, int64_t, const std::byte* next) {
    if (next) prefetch_unit<Unit>(next + unit * Unit::kBytes);
  }
  Block block(int b) const {
    Block out;
    for (int h = 0; h < 2; ++h) {
      const std::byte* half = at + b * kDecodedBlockBytes + h * (kDecodedBlockBytes / 2);
      for (int j = 0; j < 4; ++j) out.w[h][j] = _mm512_load_si512(half + 64 * j);
      out.scale[h] = _mm512_load_ps(half + 256);
    }
    return out;
  }
};

template <class Unit>
void decode_piece(const std::byte* panel, int64_t units, std::byte* scratch) {
  for (int64_t u = 0; u < units; ++u) {
    for (int b = 0; b < 2; ++b) {
      const Block block = Packed<Unit>(panel + u * Unit::kBytes).block(b);
      for (int h = 0; h < 2; ++h) {
        for (int j = 0; j < 4; ++j) _mm512_store_si512(scratch + 64 * j, block.w[h][j]);
        _mm512_store_ps(reinterpret_cast<float*>(scratch + 256), block.scale[h]);
        scratch += kDecodedBlockBytes / 2;
      }
    }
  }
}

inline __m512i broadcast4(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}

// Integer rows of FP4 activations: exact sums, one scale per block on both sides.
template <int N, typename Source>
inline void run_fp4(const std::byte* weights, const std::byte* next, int64_t units,
                    const std::byte* const* rows, int64_t first_unit, float* sums, bool first) {
  __m512 total[N][2];
  const Fp4Block* row[N];
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
    row[t] = reinterpret_cast<const Fp4Block*>(rows[t]) + 2 * first_unit;
    for (int h = 0; h < 2; ++h) {
      total[t][h] = first ? _mm512_setzero_ps() : _mm512_load_ps(sums + t * kPanelRows + 16 * h);
    }
  }
  for (int64_t u = 0; u < units; ++u, weights += Source::kUnitStride) {
    Source(weights).prefetch(u, units, next);
#pragma GCC unroll 2
    for (int b = 0; b < 2; ++b) {
      const Block block = Source(weights).block(b);
#pragma GCC unroll 8
      for (int t = 0; t < N; ++t) {
        const Fp4Block& a = row[t][2 * u + b];
        __m512i sum0 = _mm512_set1_epi32(a.start);
        __m512i sum1 = sum0;
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const __m512i four = broadcast4(a.twice + 4 * j);
          sum0 = _mm512_dpbusd_epi32(sum0, block.w[0][j], four);
          sum1 = _mm512_dpbusd_epi32(sum1, block.w[1][j], four);
        }
        const __m512 scale = _mm512_set1_ps(a.scale);
        total[t][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum0),
                                      _mm512_mul_ps(block.scale[0], scale), total[t][0]);
        total[t][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum1),
                                      _mm512_mul_ps(block.scale[1], scale), total[t][1]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
    for (int h = 0; h < 2; ++h) _mm512_store_ps(sums + t * kPanelRows + 16 * h, total[t][h]);
  }
}

// Integer rows of 16 bits. The sum of high bytes counts 256-fold; it fits: 16 * 12 * 2^14 < 2^22,
// so the conversion to float is exact too.
template <int N, typename Source>
inline void run_int16(const std::byte* weights, const std::byte* next, int64_t units,
                      const std::byte* const* rows, int64_t first_unit, int64_t row_scales,
                      float* sums, bool first) {
  constexpr int64_t kGroupUnits = kInt16Group / kUnitInputs;
  const Int16Block* row[N];
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
    row[t] = reinterpret_cast<const Int16Block*>(rows[t]) + 2 * first_unit;
  }
  for (int64_t begin = 0; begin < units; begin += kGroupUnits) {
    const int64_t end = std::min(begin + kGroupUnits, units);
    __m512 group[N][2];
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) group[t][0] = group[t][1] = _mm512_setzero_ps();
    for (int64_t u = begin; u < end; ++u, weights += Source::kUnitStride) {
      Source(weights).prefetch(u, units, next);
#pragma GCC unroll 2
      for (int b = 0; b < 2; ++b) {
        const Block block = Source(weights).block(b);
#pragma GCC unroll 8
        for (int t = 0; t < N; ++t) {
          const Int16Block& a = row[t][2 * u + b];
          __m512i low0 = _mm512_set1_epi32(a.start), low1 = low0;
          __m512i high0 = _mm512_setzero_si512(), high1 = high0;
#pragma GCC unroll 4
          for (int j = 0; j < 4; ++j) {
            const __m512i hi = broadcast4(a.hi + 4 * j), lo = broadcast4(a.lo + 4 * j);
            high0 = _mm512_dpbusd_epi32(high0, block.w[0][j], hi);
            high1 = _mm512_dpbusd_epi32(high1, block.w[1][j], hi);
            low0 = _mm512_dpbusd_epi32(low0, block.w[0][j], lo);
            low1 = _mm512_dpbusd_epi32(low1, block.w[1][j], lo);
          }
          const __m512i sum0 = _mm512_add_epi32(low0, _mm512_slli_epi32(high0, 8));
          const __m512i sum1 = _mm512_add_epi32(low1, _mm512_slli_epi32(high1, 8));
          group[t][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum0), block.scale[0], group[t][0]);
          group[t][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum1), block.scale[1], group[t][1]);
        }
      }
    }
    const int64_t group_index = (first_unit + begin) / kGroupUnits;
    const bool start = first && begin == 0;
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) {
      float scale;
      std::memcpy(&scale, rows[t] + row_scales + 4 * group_index, 4);
      for (int h = 0; h < 2; ++h) {
        float* at = sums + t * kPanelRows + 16 * h;
        const __m512 before = start ? _mm512_setzero_ps() : _mm512_load_ps(at);
        _mm512_store_ps(at, _mm512_fmadd_ps(group[t][h], _mm512_set1_ps(scale), before));
      }
    }
  }
}

template <bool kInt16, int N, typename Source>
void run_tile(const std::byte* weights, const std::byte* next, int64_t units,
              const std::byte* const* rows, int64_t first_unit, int64_t row_scales, float* sums,
              bool first) {
  if constexpr (kInt16) {
    run_int16<N, Source>(weights, next, units, rows, first_unit, row_scales, sums, first);
  } else {
    run_fp4<N, Source>(weights, next, units, rows, first_unit, sums, first);
  }
}

template <bool kInt16, typename Source>
using TileFunction = decltype(&run_tile<kInt16, 1, Source>);

template <bool kInt16, typename Source>
constexpr TileFunction<kInt16, Source> kTiles[kTile + 1] = {
    nullptr,
    run_tile<kInt16, 1, Source>,
    run_tile<kInt16, 2, Source>,
    run_tile<kInt16, 3, Source>,
    run_tile<kInt16, 4, Source>,
    run_tile<kInt16, 5, Source>,
    run_tile<kInt16, 6, Source>,
    run_tile<kInt16, 7, Source>,
    run_tile<kInt16, 8, Source>,
};

template <class Unit, bool kInt16>
void fp4_panel(const PanelArgs& args) {
  const int64_t units = padded_inputs(args.in_features) / kUnitInputs;
  const int64_t row_scales = 2 * units * static_cast<int64_t>(sizeof(Int16Block));
  const std::byte* next = args.next ? args.next : args.panel + units * Unit::kBytes;
  if (args.num_tokens <= kTile) {
    kTiles<kInt16, Packed<Unit>>[args.num_tokens](args.panel, next, units, args.rows, 0, row_scales,
                                                  args.sums, true);
    return;
  }
  const int64_t tiles = ceil_div(args.num_tokens, kTile);
  for (int64_t begin = 0; begin < units; begin += kPieceUnits) {
    const int64_t piece = std::min<int64_t>(kPieceUnits, units - begin);
    decode_piece<Unit>(args.panel + begin * Unit::kBytes, piece, args.scratch);
    const std::byte* after =
        begin + piece < units ? args.panel + (begin + piece) * Unit::kBytes : next;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t t = i * args.num_tokens / tiles;
      const int64_t n = (i + 1) * args.num_tokens / tiles - t;
      kTiles<kInt16, Decoded<Unit>>[n](args.scratch, i == 0 ? after : nullptr, piece, args.rows + t,
                                       begin, row_scales, args.sums + t * kPanelRows, begin == 0);
    }
  }
}

}  // namespace

const Kernels& avx512vnni_kernels() {
  static constexpr Kernels kernels =
      make_kernels<Avx512>(CpuIsa::kAvx512, fp4_panel<Nvfp4Unit, false>, fp4_panel<Nvfp4Unit, true>,
                           fp4_panel<Mxfp4Unit, true>);
  return kernels;
}

}  // namespace moe4::cpu
