// E2M1: all 16 codes, all ties, and every BF16 value against a search of the table.
#include "numerics/e2m1.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "numerics/bf16.h"

namespace moe4 {
namespace {

constexpr double kMagnitudes[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

// The nearest magnitude by search; of two equally near, the one with the even code.
uint8_t nearest_code(double x) {
  int best = 0;
  for (int code = 1; code < 8; ++code) {
    const double d = std::abs(std::abs(x) - kMagnitudes[code]);
    const double best_d = std::abs(std::abs(x) - kMagnitudes[best]);
    if (d < best_d || (d == best_d && code % 2 == 0)) best = code;
  }
  return static_cast<uint8_t>(best | (std::signbit(x) ? 8 : 0));
}

TEST(E2m1, AllSixteenCodesDecodeToTheTable) {
  for (int code = 0; code < 16; ++code) {
    const float value = e2m1_to_float(static_cast<uint8_t>(code));
    EXPECT_EQ(std::abs(value), kMagnitudes[code & 7]) << code;
    EXPECT_EQ(std::signbit(value), code >= 8) << code;
  }
}

TEST(E2m1, NegativeZeroActsAsZero) { EXPECT_EQ(1.0f + e2m1_to_float(8), 1.0f); }

TEST(E2m1, EveryCodeSurvivesARoundTrip) {
  for (int code = 0; code < 16; ++code)
    EXPECT_EQ(e2m1_from_float(e2m1_to_float(static_cast<uint8_t>(code))), code);
}

TEST(E2m1, TiesGoToTheEvenCode) {
  const struct {
    float tie, rounded;
  } cases[] = {{0.25f, 0}, {0.75f, 1}, {1.25f, 1}, {1.75f, 2}, {2.5f, 2}, {3.5f, 4}, {5, 4}};
  for (const auto& [tie, rounded] : cases) {
    EXPECT_EQ(e2m1_to_float(e2m1_from_float(tie)), rounded) << tie;
    EXPECT_EQ(e2m1_to_float(e2m1_from_float(-tie)), -rounded) << -tie;
  }
}

TEST(E2m1, NeighboursOfTiesGoToTheNearerSide) {
  for (float tie : {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f}) {
    const float below = std::nextafter(tie, 0.0f), above = std::nextafter(tie, 9.0f);
    EXPECT_EQ(e2m1_from_float(below), nearest_code(below)) << tie;
    EXPECT_EQ(e2m1_from_float(above), nearest_code(above)) << tie;
    EXPECT_EQ(e2m1_from_float(above), e2m1_from_float(below) + 1) << tie;
  }
}

TEST(E2m1, EveryBf16ValueEncodesToTheNearestCode) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float x = to_float(Bf16{static_cast<uint16_t>(bits)});
    if (std::isnan(x)) continue;
    // Beyond 8 the largest code is the nearest, but float64 distances no longer tell.
    ASSERT_EQ(e2m1_from_float(x), nearest_code(std::clamp(x, -8.0f, 8.0f))) << x;
  }
}

TEST(E2m1, NanSaturatesAsTheHardwareConversionDoes) {
  EXPECT_EQ(e2m1_from_float(std::numeric_limits<float>::quiet_NaN()) & 7, 7);
}

TEST(E2m1, WorksAtCompileTime) {
  static_assert(e2m1_to_float(7) == 6.0f);
  static_assert(e2m1_from_float(2.5f) == 4);
}

}  // namespace
}  // namespace moe4
