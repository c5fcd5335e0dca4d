// Names of schemes and modes, and the reference quantisers of activations.
#include "moe/quant.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "moe/activation_quant.h"
#include "numerics/e4m3.h"

namespace moe4 {
namespace {

TEST(QuantScheme, NamesSayPrecisionsAndBothKeys) {
  EXPECT_EQ(to_string(kW4A4), "W4A4 (nvfp4 static, nvfp4 dynamic)");
  EXPECT_EQ(to_string(kW4A16), "W4A16 (nvfp4 static, none)");
  EXPECT_EQ(to_string(kUnquantized), "unquantised");
  EXPECT_EQ(to_string(QuantScheme{{QuantFormat::kFp8Channel, false},
                                  QuantKey{QuantFormat::kFp8Token, true}}),
            "W8A8 (fp8 per-channel static, fp8 per-token dynamic)");
}

TEST(ActivationMode, WordsRoundTripAndOthersAreUsageErrors) {
  for (ActivationMode mode : {ActivationMode::kAuto, ActivationMode::kBf16, ActivationMode::kFp4,
                              ActivationMode::kFp4Static})
    EXPECT_EQ(parse_activation_mode(to_string(mode)), mode);
  try {
    parse_activation_mode("int8");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("fp4-static"));
  }
}

TEST(ActivationQuant, Nvfp4KeepsWhatTheFormatCanHold) {
  std::vector<float> x = {0,     0.5f,  -1,    1.5f,  2,    -3,   4, 6,
                          0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5, -6};
  std::vector<float> out(16);
  fake_quantize_nvfp4(x.data(), 16, DecodeScale{1.0f}, out.data());
  EXPECT_EQ(out, (std::vector<float>{0, 0.5f, -1, 1.5f, 2, -3, 4, 6, 0, 1, 1, 2, 2, 4, 4, -6}));
}

TEST(ActivationQuant, Fp8StaticRoundsToMultiplesOfTheScale) {
  const std::vector<float> x = {0.1f, -0.3f, 500.0f, 1e9f};
  std::vector<float> out(4);
  fake_quantize_fp8_static(x.data(), 4, DecodeScale{0.5f}, out.data());
  EXPECT_EQ(out, (std::vector<float>{0.1015625f, -0.3125f, 224.0f, 224.0f}));
}

// Inputs exactly between two values of the format; a multiplication with the reciprocal of the
// scale falls to the wrong side of some.
TEST(ActivationQuant, Fp8DividesExactlyWhereATieDecides) {
  for (const float scale : {3 * 0x1p-7f, 5 * 0x1p-9f, 7 * 0x1p-8f, 11 * 0x1p-5f, 13 * 0x1p-12f}) {
    for (uint8_t byte = 0; byte < 0x7e; ++byte) {
      const float low = e4m3_to_float(byte), high = e4m3_to_float(static_cast<uint8_t>(byte + 1));
      const std::vector<float> x = {kE4m3Max * scale, (low + high) / 2 * scale};
      const float even = (byte % 2 == 0 ? low : high) * scale;
      std::vector<float> out(2);
      fake_quantize_fp8_static(x.data(), 2, DecodeScale{scale}, out.data());
      EXPECT_EQ(out[1], even) << scale << " byte " << int{byte};
      fake_quantize_fp8_dynamic(x.data(), 2, 2, out.data());
      EXPECT_EQ(out[1], even) << scale << " byte " << int{byte};
    }
  }
}

TEST(ActivationQuant, Fp8DynamicScalesEachGroupByItsLargest) {
  const std::vector<float> x = {448, 1, -448, 0, 0, 0, 0, 0};
  std::vector<float> out(8);
  fake_quantize_fp8_dynamic(x.data(), 8, 4, out.data());
  EXPECT_EQ(out, x);
}

}  // namespace
}  // namespace moe4
