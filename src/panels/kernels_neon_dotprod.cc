// NEON kernels of the CPU with the dot product (Graviton 2, Grace and later).
//
// sdot multiplies signed bytes, so weights stay signed here and the records' `start`, which makes
// up for the offset elsewhere, is not used; the integer sums are the same. One token's 16 inputs
// are one register, of which sdot picks four at a time.
#include <arm_neon.h>

#include "panels/row_kernels.h"

namespace moe4::cpu {
namespace {

typedef int32_t Int4 __attribute__((vector_size(16)));

struct Neon : ShortLanes<Int4, 4> {
  static constexpr int kWidth = 4;
  static constexpr int kDenseVectors = 4, kDenseTokens = 6;
  typedef float F __attribute__((vector_size(16)));
  using I = Int4;
  static F fma(F a, F b, F c) {
    return reinterpret_cast<F>(vfmaq_f32(reinterpret_cast<float32x4_t>(c),
                                         reinterpret_cast<float32x4_t>(a),
                                         reinterpret_cast<float32x4_t>(b)));
  }
  template <typename T>
  static I widen(const T* p) {
    return I{p[0], p[1], p[2], p[3]};
  }
};

constexpr int kTile = 4;

// Eight rows (strip 0..3 of the panel) x 16 inputs: w[j][g] has inputs 4j .. 4j + 3 of rows
// 4g .. 4g + 3.
struct Block {
  int8x16_t w[4][2];
  float32x4_t scale[2];
};

template <class Unit>
inline Block decode_block(const std::byte* unit, int b, int strip) {
  const int8x16_t table =
      vsubq_s8(vreinterpretq_s8_u8(vld1q_u8(kOffsetTwiceE2m1)), vdupq_n_s8(kWeightOffset));
  const int half = strip / 2, offset = strip % 2;
  const auto* codes = reinterpret_cast<const uint8_t*>(unit) + 128 * (2 * b + half) + 32 * offset;
  const auto* scales = reinterpret_cast<const uint8_t*>(unit) + Unit::scales(b, half) + 8 * offset;
  Block out;
  for (int v = 0; v < 2; ++v) {
    for (int g = 0; g < 2; ++g) {
      const uint8x16_t bytes = vld1q_u8(codes + 64 * v + 16 * g);
      out.w[2 * v][g] = vqtbl1q_s8(table, vandq_u8(bytes, vdupq_n_u8(15)));
      out.w[2 * v + 1][g] = vqtbl1q_s8(table, vshrq_n_u8(bytes, 4));
    }
  }
  const uint16x8_t wide = vmovl_u8(vld1_u8(scales));
  const uint32x4_t bias = vdupq_n_u32(static_cast<uint32_t>(Unit::kScaleBias));
  const auto decode = [&](uint16x4_t bytes) {
    return vreinterpretq_f32_u32(vaddq_u32(vshlq_n_u32(vmovl_u16(bytes), Unit::kScaleShift), bias));
  };
  out.scale[0] = decode(vget_low_u16(wide));
  out.scale[1] = decode(vget_high_u16(wide));
  return out;
}

inline int32x4_t dot16(const Block& block, int group, int8x16_t a) {
  int32x4_t sum = vdupq_n_s32(0);
  sum = vdotq_laneq_s32(sum, block.w[0][group], a, 0);
  sum = vdotq_laneq_s32(sum, block.w[1][group], a, 1);
  sum = vdotq_laneq_s32(sum, block.w[2][group], a, 2);
  return vdotq_laneq_s32(sum, block.w[3][group], a, 3);
}

template <int N>
void fp4_strip(const PanelArgs& args, int strip, int64_t first_token) {
  const Fp4Block* row[N];
  float32x4_t total[N][2];
  for (int t = 0; t < N; ++t) {
    row[t] = reinterpret_cast<const Fp4Block*>(args.rows[first_token + t]);
    total[t][0] = total[t][1] = vdupq_n_f32(0.0f);
  }
  for (int64_t i = 0; i < blocks_of(args.in_features); ++i) {
    const Block block = decode_block<Nvfp4Unit>(args.panel + i / 2 * Nvfp4Unit::kBytes,
                                                static_cast<int>(i % 2), strip);
    for (int t = 0; t < N; ++t) {
      const Fp4Block& a = row[t][i];
      const int8x16_t inputs = vld1q_s8(a.twice);
      for (int g = 0; g < 2; ++g) {
        total[t][g] = vfmaq_f32(total[t][g], vcvtq_f32_s32(dot16(block, g, inputs)),
                                vmulq_n_f32(block.scale[g], a.scale));
      }
    }
  }
  for (int t = 0; t < N; ++t) {
    float* sums = args.sums + (first_token + t) * kPanelRows + 8 * strip;
    vst1q_f32(sums, total[t][0]);
    vst1q_f32(sums + 4, total[t][1]);
  }
}

template <class Unit, int N>
void int16_strip(const PanelArgs& args, int strip, int64_t first_token) {
  constexpr int64_t kGroupBlocks = kInt16Group / kBlock;
  const int64_t blocks = blocks_of(args.in_features);
  const int64_t row_scales = blocks * static_cast<int64_t>(sizeof(Int16Block));
  const std::byte* const* rows = args.rows + first_token;
  float32x4_t total[N][2];
  for (int t = 0; t < N; ++t) total[t][0] = total[t][1] = vdupq_n_f32(0.0f);
  for (int64_t begin = 0; begin < blocks; begin += kGroupBlocks) {
    float32x4_t group[N][2];
    for (int t = 0; t < N; ++t) group[t][0] = group[t][1] = vdupq_n_f32(0.0f);
    for (int64_t i = begin; i < std::min(begin + kGroupBlocks, blocks); ++i) {
      const Block block =
          decode_block<Unit>(args.panel + i / 2 * Unit::kBytes, static_cast<int>(i % 2), strip);
      for (int t = 0; t < N; ++t) {
        const Int16Block& a = reinterpret_cast<const Int16Block*>(rows[t])[i];
        const int8x16_t hi = vld1q_s8(a.hi), lo = vld1q_s8(a.lo);
        for (int g = 0; g < 2; ++g) {
          const int32x4_t sum = vaddq_s32(vshlq_n_s32(dot16(block, g, hi), 8), dot16(block, g, lo));
          group[t][g] = vfmaq_f32(group[t][g], vcvtq_f32_s32(sum), block.scale[g]);
        }
      }
    }
    for (int t = 0; t < N; ++t) {
      float scale;
      std::memcpy(&scale, rows[t] + row_scales + 4 * (begin / kGroupBlocks), 4);
      for (int g = 0; g < 2; ++g) {
        total[t][g] = vfmaq_n_f32(total[t][g], group[t][g], scale);
      }
    }
  }
  for (int t = 0; t < N; ++t) {
    float* sums = args.sums + (first_token + t) * kPanelRows + 8 * strip;
    vst1q_f32(sums, total[t][0]);
    vst1q_f32(sums + 4, total[t][1]);
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

const Kernels& neon_dotprod_kernels() {
  static constexpr Kernels kernels =
      make_kernels<Neon>(CpuIsa::kNeon, fp4_panel<Nvfp4Unit, false>, fp4_panel<Nvfp4Unit, true>,
                         fp4_panel<Mxfp4Unit, true>);
  return kernels;
}

}  // namespace moe4::cpu
