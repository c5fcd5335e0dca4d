// The packed layout of the GPU backends, read back on the CPU: exact for every code and scale.
#include "ops/experts/gpu/packed_layout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "numerics/bf16.h"
#include "numerics/mxfp4.h"
#include "ops/experts/gpu/pack_weights.h"

namespace moe4::cuda {
namespace {

TEST(PackedLayout, EveryScaleByteKeepsItsValue) {
  for (int byte = 1; byte < 0x7f; ++byte) {
    const uint32_t recoded = recode_scale(static_cast<uint8_t>(byte));
    const float bf16 = to_float(Bf16{static_cast<uint16_t>(recoded * 16 + 0x7000)});
    EXPECT_EQ(std::ldexp(bf16, -106), e4m3_to_float(static_cast<uint8_t>(byte))) << byte;
  }
}

TEST(PackedLayout, EveryCodeComesBackFromEveryPlace) {
  for (int place = 0; place < 32; ++place) {
    for (int code = 0; code < 16; ++code) {
      uint8_t rows[2][8] = {};
      const int element = place % 16;
      rows[place / 16][element / 2] = static_cast<uint8_t>(code << (4 * (element & 1)));
      uint32_t words[4], pairs[16];
      pack_codes(rows[0], rows[1], words);
      extract_pairs(words[0], words[1], pairs);
      extract_pairs(words[2], words[3], pairs + 8);
      for (int other = 0; other < 32; ++other) {
        const int e = other % 16;
        const uint32_t pair = pairs[4 * (e / 4) + 2 * (e % 4 / 2) + other / 16];
        const float value =
            std::ldexp(to_float(Bf16{static_cast<uint16_t>(e % 2 == 0 ? pair : pair >> 16)}), 126);
        EXPECT_EQ(value, other == place ? e2m1_to_float(static_cast<uint8_t>(code)) : 0.0f);
      }
    }
  }
}

TEST(PackedLayout, ProductOfCodeAndScaleIsTheWeightTimes2ToMinus20) {
  for (int byte = 1; byte < 0x7f; ++byte) {
    for (uint8_t code = 0; code < 16; ++code) {
      const float code_bf16 = std::ldexp(e2m1_to_float(code), -126);
      const float scale_bf16 = std::ldexp(e4m3_to_float(static_cast<uint8_t>(byte)), 106);
      const float product = code_bf16 * scale_bf16;
      EXPECT_EQ(round_to_bf16(product), product);
      EXPECT_EQ(product * kAlphaScale,
                e2m1_to_float(code) * e4m3_to_float(static_cast<uint8_t>(byte)));
    }
  }
}

TEST(PackedLayout, ProductOfCodeAndShiftedExponentIsTheWeightTimes2ToMinus20) {
  for (int scale = 22; scale <= 148; ++scale) {
    const uint32_t byte = shifted_exponent(static_cast<uint8_t>(scale), 106);
    for (uint8_t code = 0; code < 16; ++code) {
      const float scale_bf16 = to_float(Bf16{static_cast<uint16_t>(byte * 128)});
      const float product = std::ldexp(e2m1_to_float(code), -126) * scale_bf16;
      EXPECT_EQ(round_to_bf16(product), product);
      if ((code & 7) != 0) {
        EXPECT_GE(std::abs(product), 0x1p-126f) << "a normal number";
      }
      EXPECT_EQ(product * exponent_alpha(106), mxfp4_value(code, static_cast<uint8_t>(scale)));
    }
  }
  EXPECT_EQ(exponent_alpha(106), kAlphaScale);
}

struct Matrix {
  bool mxfp4;
  int64_t rows, k, block;
  std::vector<uint8_t> codes, scales;

  Matrix(WeightFormat format, int64_t n, int64_t columns, uint32_t seed)
      : mxfp4(format == WeightFormat::kMxfp4),
        rows(n),
        k(columns),
        block(mxfp4 ? 32 : 16),
        codes(n * columns / 2),
        scales(n * columns / block) {
    std::mt19937 random(seed);
    for (uint8_t& byte : codes) byte = static_cast<uint8_t>(random());
    for (uint8_t& byte : scales) {
      if (mxfp4) {
        byte = static_cast<uint8_t>(22 + random() % 127);
        continue;
      }
      do byte = static_cast<uint8_t>(random());
      while (e4m3_is_nan(byte));
    }
  }
  CodeRows view() const { return {codes.data(), k / 2, scales.data(), k / block, 106}; }
  float value(int64_t row, int64_t column) const {
    const uint8_t code = nvfp4_code(codes.data() + row * k / 2, column);
    const uint8_t scale = scales[row * k / block + column / block];
    return mxfp4 ? mxfp4_value(code, scale) : nvfp4_value(code, scale, DecodeScale{1.0f});
  }
};

class PackedMatrix : public testing::TestWithParam<std::pair<int64_t, int64_t>> {};

TEST_P(PackedMatrix, UnpacksToTheCheckpointsValues) {
  const auto [rows, k] = GetParam();
  for (const WeightFormat format : {WeightFormat::kNvfp4, WeightFormat::kMxfp4}) {
    if (format == WeightFormat::kMxfp4 && k % 32 != 0) continue;
    for (const RowOrder order : {RowOrder::kPlain, RowOrder::kGateUp}) {
      const Matrix first(format, rows, k, 1), up(format, rows, k, 2);
      const PackedShape shape = packed_shape(format, order, rows, k);
      std::vector<uint8_t> packed(shape.expert_bytes(), 0xee);
      pack_tiles(shape, first.view(), up.view(), 0, shape.tiles, packed.data());
      for (int64_t r = 0; r < (order == RowOrder::kGateUp ? 2 : 1) * rows; ++r) {
        for (int64_t c = 0; c < k; ++c) {
          const PackedElement e = unpack_element(shape, packed.data(), r, c);
          const float expected = r < rows ? first.value(r, c) : up.value(r - rows, c);
          ASSERT_EQ(e.code * e.scale, expected) << "row " << r << " column " << c;
        }
        // Padding is zero codes, so whatever activation meets it adds nothing.
        for (int64_t c = k; c < shape.k_units * kUnitK; ++c) {
          ASSERT_EQ(unpack_element(shape, packed.data(), r, c).code, 0.0f);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, PackedMatrix,
                         testing::Values(std::pair{16, 16}, std::pair{16, 256}, std::pair{48, 352},
                                         std::pair{176, 704}, std::pair{64, 2880},
                                         std::pair{32, 512}));

TEST(PackedLayout, AStepIsContiguous) {
  EXPECT_EQ(unit_index(64, 8, 0, 1, 0), 1);
  EXPECT_EQ(unit_index(64, 8, 0, 0, 1), 2);
  EXPECT_EQ(unit_index(64, 8, 0, 2, 0), 8 * 2);
  EXPECT_EQ(unit_index(64, 8, 1, 0, 0), 64 * 8);
  EXPECT_EQ(unit_bytes(WeightFormat::kNvfp4), 16 * 256 / 16 * 9);
  EXPECT_EQ(unit_bytes(WeightFormat::kMxfp4), 16 * 256 / 32 * 17);
}

TEST(PackedLayout, OffsetsPass32Bits) {
  // Qwen3.5-397B: 512 experts, H 4096, I 1024 gives 2.4 GB of FC1.
  const PackedShape shape = packed_shape(WeightFormat::kNvfp4, RowOrder::kGateUp, 1024, 4096);
  EXPECT_GT(unit_index(shape.tiles, shape.k_units, 511, shape.tiles - 1, 0) *
                unit_bytes(WeightFormat::kNvfp4),
            int64_t{1} << 31);
}

}  // namespace
}  // namespace moe4::cuda
