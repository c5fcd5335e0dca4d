// NVFP4 blocks: quantisation against numpy and torch, and the awkward blocks by hand.
#include "numerics/nvfp4.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/binary_file.h"
#include "support/fp4_ties.h"

namespace moe4 {
namespace {

using testing::ByteReader;
using testing::read_bytes;

TEST(Nvfp4, LowNibbleHoldsTheEvenElement) {
  const uint8_t row[] = {0x21, 0x43};
  for (int k = 0; k < 4; ++k) EXPECT_EQ(nvfp4_code(row, k), k + 1);
}

TEST(Nvfp4, ValueIsCodeTimesBlockScaleTimesGlobalScale) {
  EXPECT_EQ(nvfp4_value(15, 0x7e, DecodeScale{0.5f}), -6.0f * 448 * 0.5f);
  EXPECT_EQ(nvfp4_value(1, 0x01, DecodeScale{1.0f}), 0x1p-10f);
  EXPECT_EQ(nvfp4_value(8, 0x38, DecodeScale{1.0f}), 0.0f);
}

TEST(Nvfp4, CodeTimesBlockScaleIsExactInBf16SizedMantissas) {
  for (int code = 0; code < 8; ++code) {
    for (int scale = 0; scale < 0x7f; ++scale) {
      const auto exact = static_cast<double>(e2m1_to_float(static_cast<uint8_t>(code))) *
                         e4m3_to_float(static_cast<uint8_t>(scale));
      int exponent;
      const double fraction = std::frexp(exact, &exponent);
      EXPECT_EQ(std::floor(fraction * 64), fraction * 64);  // at most 6 significant bits
    }
  }
}

TEST(Nvfp4, BlocksQuantiseAsNumpyDoes) {
  const auto golden = read_bytes(std::string(MOE4_TEST_DATA) + "/numerics/nvfp4_blocks.bin");
  ASSERT_EQ(golden.size(), 256u * 85);
  int block = 0;
  for (ByteReader reader(golden); !reader.done(); ++block) {
    const DecodeScale global{reader.take<float>()};
    float x[kNvfp4Block];
    for (float& value : x) value = reader.take<float>();
    uint8_t codes[kNvfp4Block];
    ASSERT_EQ(nvfp4_quantize_block(x, global, codes), reader.take<uint8_t>()) << block;
    for (int i = 0; i < kNvfp4Block; ++i)
      ASSERT_EQ(codes[i], reader.take<uint8_t>()) << block << " " << i << " " << x[i];
  }
}

TEST(Nvfp4, DivisionsAreExactWhereATieDecides) {
  int checked = 0;
  for (const testing::Fp4Tie& tie : testing::fp4_ties()) {
    uint8_t codes[kNvfp4Block];
    const uint8_t scale = nvfp4_quantize_block(tie.x.data(), DecodeScale{tie.global}, codes);
    ASSERT_EQ(scale, tie.scale) << "global " << tie.global << ", tie " << checked;
    for (int i = 0; tie.codes_known && i < kNvfp4Block; ++i) {
      ASSERT_EQ(e2m1_to_float(codes[i]), tie.values[i])
          << "global " << tie.global << " " << tie.x[i];
    }
    ++checked;
  }
  EXPECT_EQ(checked, 6 * (2 * 126 - 1));
}

TEST(Nvfp4, ABlockOfZerosHasScaleZeroAndZeroCodes) {
  const float x[kNvfp4Block] = {};
  uint8_t codes[kNvfp4Block];
  EXPECT_EQ(nvfp4_quantize_block(x, DecodeScale{1.0f}, codes), 0);
  EXPECT_TRUE(std::all_of(codes, codes + kNvfp4Block, [](uint8_t c) { return c == 0; }));
}

TEST(Nvfp4, ABlockWhoseScaleVanishesBecomesZeros) {
  float x[kNvfp4Block];
  std::fill(x, x + kNvfp4Block,
            -6.0f * 0x1p-11f);  // scale 2^-11: below half of the least subnormal
  uint8_t codes[kNvfp4Block];
  EXPECT_EQ(nvfp4_quantize_block(x, DecodeScale{1.0f}, codes), 0);
  EXPECT_TRUE(std::all_of(codes, codes + kNvfp4Block, [](uint8_t c) { return c == 0; }));
}

TEST(Nvfp4, ASubnormalScaleStillCounts) {
  float x[kNvfp4Block] = {};
  x[3] = 6.0f * 0x1p-9f;
  uint8_t codes[kNvfp4Block];
  EXPECT_EQ(nvfp4_quantize_block(x, DecodeScale{1.0f}, codes), 1);
  EXPECT_EQ(codes[3], 7);
}

TEST(Nvfp4, LargeBlocksSaturateAt448TimesSix) {
  float x[kNvfp4Block] = {};
  x[0] = 1e9f;
  x[1] = -1e9f;
  uint8_t codes[kNvfp4Block];
  EXPECT_EQ(nvfp4_quantize_block(x, DecodeScale{1.0f}, codes), 0x7e);
  EXPECT_EQ(codes[0], 7);
  EXPECT_EQ(codes[1], 15);
}

TEST(Nvfp4, NanAndInfinityPoisonTheBlockVisibly) {
  for (float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    float x[kNvfp4Block] = {1.0f};
    x[9] = bad;
    uint8_t codes[kNvfp4Block];
    EXPECT_TRUE(e4m3_is_nan(nvfp4_quantize_block(x, DecodeScale{1.0f}, codes)));
  }
}

TEST(Scales, TheTwoConventionsAreReciprocals) {
  EXPECT_EQ(to_decode(EncodeScale{2688.0f / 4}).value, 1.0f / (2688.0f / 4));
  EXPECT_EQ(to_encode(DecodeScale{0.125f}).value, 8.0f);
}

}  // namespace
}  // namespace moe4
