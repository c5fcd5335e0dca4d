// FP4 rows on NEON machines with the 8-bit matrix product (Neoverse V1 and later, Grace).
//
// smmla multiplies two rows of 8 weights by two tokens' 8 inputs: four dot products an instruction
// where sdot has four of half the length. The integer sums are the same and are scaled in the same
// order, so the bits are those of kernels_neon_dotprod.cc, which also takes an odd last token.
#include <arm_neon.h>

#include <algorithm>

#include "panels/kernels.h"

namespace moe4::cpu {
namespace {

// Eight rows (strip 0..3 of the panel) x 16 inputs: w[v][p] has inputs 8v .. 8v + 7 of rows 2p and
// 2p + 1.
struct PairBlock {
  int8x16_t w[2][4];
  float32x4_t scale[2];
};

inline float32x4_t decode_scales(uint16x4_t bytes) {
  const uint32x4_t bias = vdupq_n_u32(static_cast<uint32_t>(Nvfp4Unit::kScaleBias));
  return vreinterpretq_f32_u32(vaddq_u32(vshlq_n_u32(vmovl_u16(bytes), 20), bias));
}

inline PairBlock decode_block(const std::byte* unit, int b, int strip) {
  const int8x16_t table =
      vsubq_s8(vreinterpretq_s8_u8(vld1q_u8(kOffsetTwiceE2m1)), vdupq_n_s8(kWeightOffset));
  const int half = strip / 2, offset = strip % 2;
  const auto* codes = reinterpret_cast<const uint8_t*>(unit) + 128 * (2 * b + half) + 32 * offset;
  const auto* scales =
      reinterpret_cast<const uint8_t*>(unit) + Nvfp4Unit::scales(b, half) + 8 * offset;
  PairBlock out;
  for (int v = 0; v < 2; ++v) {
    for (int g = 0; g < 2; ++g) {
      const uint8x16_t bytes = vld1q_u8(codes + 64 * v + 16 * g);
      // Four rows: inputs 0..3 from the low nibbles, 4..7 from the high ones.
      const int32x4_t low =
          vreinterpretq_s32_s8(vqtbl1q_s8(table, vandq_u8(bytes, vdupq_n_u8(15))));
      const int32x4_t high = vreinterpretq_s32_s8(vqtbl1q_s8(table, vshrq_n_u8(bytes, 4)));
      out.w[v][2 * g] = vreinterpretq_s8_s32(vzip1q_s32(low, high));
      out.w[v][2 * g + 1] = vreinterpretq_s8_s32(vzip2q_s32(low, high));
    }
  }
  const uint16x8_t wide = vmovl_u8(vld1_u8(scales));
  out.scale[0] = decode_scales(vget_low_u16(wide));
  out.scale[1] = decode_scales(vget_high_u16(wide));
  return out;
}

// Rows 2p and 2p + 1 times the two tokens whose inputs 8v .. 8v + 7 are in a[v].
inline int32x4_t dot_pair(const PairBlock& block, int p, const int8x16_t (&a)[2]) {
  return vmmlaq_s32(vmmlaq_s32(vdupq_n_s32(0), block.w[0][p], a[0]), block.w[1][p], a[1]);
}

// P pairs of tokens.
template <int P>
void fp4_pairs(const PanelArgs& args, int strip, int64_t first_token) {
  const Fp4Block* row[2 * P];
  float32x4_t total[2 * P][2];
  for (int t = 0; t < 2 * P; ++t) {
    row[t] = reinterpret_cast<const Fp4Block*>(args.rows[first_token + t]);
    total[t][0] = total[t][1] = vdupq_n_f32(0.0f);
  }
  for (int64_t i = 0; i < blocks_of(args.in_features); ++i) {
    const PairBlock block =
        decode_block(args.panel + i / 2 * Nvfp4Unit::kBytes, static_cast<int>(i % 2), strip);
    for (int t = 0; t < 2 * P; t += 2) {
      const Fp4Block &even = row[t][i], &odd = row[t + 1][i];
      const int8x16_t a[2] = {vcombine_s8(vld1_s8(even.twice), vld1_s8(odd.twice)),
                              vcombine_s8(vld1_s8(even.twice + 8), vld1_s8(odd.twice + 8))};
      for (int g = 0; g < 2; ++g) {
        const int32x4_t lower = dot_pair(block, 2 * g, a), upper = dot_pair(block, 2 * g + 1, a);
        total[t][g] = vfmaq_f32(total[t][g], vcvtq_f32_s32(vuzp1q_s32(lower, upper)),
                                vmulq_n_f32(block.scale[g], even.scale));
        total[t + 1][g] = vfmaq_f32(total[t + 1][g], vcvtq_f32_s32(vuzp2q_s32(lower, upper)),
                                    vmulq_n_f32(block.scale[g], odd.scale));
      }
    }
  }
  for (int t = 0; t < 2 * P; ++t) {
    float* sums = args.sums + (first_token + t) * kPanelRows + 8 * strip;
    vst1q_f32(sums, total[t][0]);
    vst1q_f32(sums + 4, total[t][1]);
  }
}

}  // namespace

void neon_i8mm_nvfp4_fp4(const PanelArgs& args) {
  int64_t t = 0;
  for (; t + 4 <= args.num_tokens; t += 4) {
    for (int strip = 0; strip < 4; ++strip) fp4_pairs<2>(args, strip, t);
  }
  if (t + 2 <= args.num_tokens) {
    for (int strip = 0; strip < 4; ++strip) fp4_pairs<1>(args, strip, t);
    t += 2;
  }
  if (t == args.num_tokens) return;
  PanelArgs last = args;
  last.rows += t;
  last.num_tokens = 1;
  last.sums += t * kPanelRows;
  neon_dotprod_kernels().nvfp4_fp4(last);
}

}  // namespace moe4::cpu
