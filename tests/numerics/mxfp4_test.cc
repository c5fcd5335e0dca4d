// E8M0 and MXFP4 values, all of them.
#include "numerics/mxfp4.h"

#include <gtest/gtest.h>

#include <cmath>

#include "numerics/bf16.h"

namespace moe4 {
namespace {

TEST(E8m0, EveryByteIsAPowerOfTwoAnd255IsNan) {
  for (int byte = 0; byte < 255; ++byte) {
    EXPECT_EQ(e8m0_to_float(static_cast<uint8_t>(byte)), std::ldexp(1.0, byte - 127)) << byte;
  }
  EXPECT_TRUE(std::isnan(e8m0_to_float(255)));
  EXPECT_TRUE(e8m0_is_nan(255));
  EXPECT_FALSE(e8m0_is_nan(254));
  EXPECT_FALSE(e8m0_is_nan(0));
}

TEST(Mxfp4, EveryValueIsExactInBf16OrBeyondFloat32) {
  constexpr double kCodes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (int byte = 0; byte < 255; ++byte) {
    for (int code = 0; code < 16; ++code) {
      const double exact = std::ldexp(kCodes[code & 7], byte - 127) * (code & 8 ? -1 : 1);
      const float value = mxfp4_value(static_cast<uint8_t>(code), static_cast<uint8_t>(byte));
      if (std::abs(exact) >= 0x1p128) {
        EXPECT_TRUE(std::isinf(value) && std::signbit(value) == ((code & 8) != 0));
        EXPECT_GE(byte, 253);
        continue;
      }
      EXPECT_EQ(static_cast<double>(value), exact) << byte << ", " << code;
      EXPECT_EQ(round_to_bf16(value), value) << byte << ", " << code;
    }
  }
}

}  // namespace
}  // namespace moe4
