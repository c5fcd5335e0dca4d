// BF16 rounding: every value, every tie, NaN and overflow.
#include "numerics/bf16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace moe4 {
namespace {

TEST(Bf16, EveryBitPatternSurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Bf16 x{static_cast<uint16_t>(bits)};
    const float value = to_float(x);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(round_to_bf16(value)));
    } else {
      ASSERT_EQ(to_bf16(value).bits, bits);
    }
  }
}

TEST(Bf16, TiesBetweenNeighboursGoToTheEvenOne) {
  for (uint32_t bits = 0; bits < 0x7f7f; ++bits) {
    const double low = to_float(Bf16{static_cast<uint16_t>(bits)});
    const double high = to_float(Bf16{static_cast<uint16_t>(bits + 1)});
    const auto tie = static_cast<float>((low + high) / 2);
    const auto even = static_cast<uint16_t>(bits % 2 == 0 ? bits : bits + 1);
    ASSERT_EQ(to_bf16(tie).bits, even) << tie;
    ASSERT_EQ(to_bf16(std::nextafter(tie, 0.0f)).bits, bits) << tie;
    ASSERT_EQ(to_bf16(std::nextafter(tie, INFINITY)).bits, bits + 1) << tie;
    ASSERT_EQ(to_bf16(-tie).bits, even | 0x8000) << -tie;
  }
}

TEST(Bf16, TooLargeBecomesInfinity) {
  EXPECT_TRUE(std::isinf(round_to_bf16(std::numeric_limits<float>::max())));
}

TEST(Bf16, ANanWhosePayloadIsInTheLowBitsStaysNan) {
  EXPECT_TRUE(std::isnan(round_to_bf16(std::bit_cast<float>(0x7f800001u))));
}

}  // namespace
}  // namespace moe4
