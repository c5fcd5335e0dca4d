// Kernels of the CPU in plain C++: any machine, and the plainest statement of what the
// other files compute.
#include "panels/row_kernels.h"

namespace moe4::cpu {
namespace {

typedef int32_t Int4 __attribute__((vector_size(16)));

struct Portable : ShortLanes<Int4, 4> {
  static constexpr int kWidth = 4;
  static constexpr int kDenseVectors = 2, kDenseTokens = 4;
  typedef float F __attribute__((vector_size(16)));
  using I = Int4;
  static F fma(F a, F b, F c) { return a * b + c; }
  template <typename T>
  static I widen(const T* p) {
    return I{p[0], p[1], p[2], p[3]};
  }
};

// Weights of one block for the 32 rows, as their offset integers, and the rows' scales.
struct Block {
  uint8_t w[kPanelRows][kBlock];
  float scale[kPanelRows];
};

template <class Unit>
void decode_block(const std::byte* unit, int b, Block& out) {
  for (int r = 0; r < kPanelRows; ++r) {
    const int half = r / 16, row = r % 16;
    const std::byte* codes = unit + 128 * (2 * b + half) + 4 * row;
    for (int v = 0; v < 2; ++v) {
      for (int i = 0; i < 4; ++i) {
        const auto byte = static_cast<uint8_t>(codes[64 * v + i]);
        out.w[r][8 * v + i] = kOffsetTwiceE2m1[byte & 15];
        out.w[r][8 * v + 4 + i] = kOffsetTwiceE2m1[byte >> 4];
      }
    }
    const auto byte = static_cast<int32_t>(unit[Unit::scales(b, half) + row]);
    out.scale[r] = std::bit_cast<float>((byte << Unit::kScaleShift) + Unit::kScaleBias);
  }
}

inline int32_t dot16(const uint8_t* w, const int8_t* a) {
  int32_t sum = 0;
  for (int i = 0; i < kBlock; ++i) sum += w[i] * a[i];
  return sum;
}

void nvfp4_fp4(const PanelArgs& args) {
  std::memset(args.sums, 0, args.num_tokens * kPanelRows * sizeof(float));
  for (int64_t b = 0; b < blocks_of(args.in_features); ++b) {
    Block block;
    decode_block<Nvfp4Unit>(args.panel + b / 2 * Nvfp4Unit::kBytes, static_cast<int>(b % 2), block);
    for (int64_t t = 0; t < args.num_tokens; ++t) {
      const Fp4Block& a = reinterpret_cast<const Fp4Block*>(args.rows[t])[b];
      float* total = args.sums + t * kPanelRows;
      for (int r = 0; r < kPanelRows; ++r) {
        const int32_t sum = a.start + dot16(block.w[r], a.twice);
        total[r] += static_cast<float>(sum) * (block.scale[r] * a.scale);
      }
    }
  }
}

template <class Unit>
void fp4_int16(const PanelArgs& args) {
  const int64_t blocks = blocks_of(args.in_features);
  const int64_t row_scales = blocks * static_cast<int64_t>(sizeof(Int16Block));
  constexpr int64_t kGroupBlocks = kInt16Group / kBlock;
  // Group totals live in the scratch, a few tokens at a time.
  constexpr int64_t kTokens = 64;
  static_assert(kTokens * kPanelRows * static_cast<int64_t>(sizeof(float)) <= kScratchBytes);
  auto* group = reinterpret_cast<float*>(args.scratch);
  std::memset(args.sums, 0, args.num_tokens * kPanelRows * sizeof(float));
  for (int64_t first = 0; first < args.num_tokens; first += kTokens) {
    const int64_t n = std::min(kTokens, args.num_tokens - first);
    for (int64_t begin = 0; begin < blocks; begin += kGroupBlocks) {
      std::memset(group, 0, n * kPanelRows * sizeof(float));
      for (int64_t b = begin; b < std::min(begin + kGroupBlocks, blocks); ++b) {
        Block block;
        decode_block<Unit>(args.panel + b / 2 * Unit::kBytes, static_cast<int>(b % 2), block);
        for (int64_t t = 0; t < n; ++t) {
          const Int16Block& a = reinterpret_cast<const Int16Block*>(args.rows[first + t])[b];
          for (int r = 0; r < kPanelRows; ++r) {
            const int32_t sum = a.start + dot16(block.w[r], a.lo) + 256 * dot16(block.w[r], a.hi);
            group[t * kPanelRows + r] += static_cast<float>(sum) * block.scale[r];
          }
        }
      }
      for (int64_t t = 0; t < n; ++t) {
        float scale;
        std::memcpy(&scale, args.rows[first + t] + row_scales + 4 * (begin / kGroupBlocks), 4);
        float* total = args.sums + (first + t) * kPanelRows;
        for (int r = 0; r < kPanelRows; ++r) total[r] += group[t * kPanelRows + r] * scale;
      }
    }
  }
}

}  // namespace

const Kernels& portable_kernels() {
  static constexpr Kernels kernels = make_kernels<Portable>(
      CpuIsa::kPortable, nvfp4_fp4, fp4_int16<Nvfp4Unit>, fp4_int16<Mxfp4Unit>);
  return kernels;
}

}  // namespace moe4::cpu
