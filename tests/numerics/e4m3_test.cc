// E4M3: all 256 bytes by formula, encoding by search and against torch's casts.
#include "numerics/e4m3.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "numerics/bf16.h"
#include "support/binary_file.h"

namespace moe4 {
namespace {

using testing::ByteReader;
using testing::read_bytes;

const std::string kData = std::string(MOE4_TEST_DATA) + "/numerics/";

// The definition: (-1)^s * 2^(e-7) * (1 + m/8), subnormals 2^-6 * m/8.
double by_formula(int byte) {
  const int exponent = (byte >> 3) & 15, mantissa = byte & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa / 8.0, -6) : std::ldexp(1 + mantissa / 8.0, exponent - 7);
  return (byte & 0x80) != 0 ? -magnitude : magnitude;
}

// Nearest finite value by search; of two equally near, the even byte.
uint8_t nearest_byte(double x) {
  int best = 0;
  for (int byte = 1; byte <= 0x7e; ++byte) {
    const double d = std::abs(std::abs(x) - by_formula(byte));
    const double best_d = std::abs(std::abs(x) - by_formula(best));
    if (d < best_d || (d == best_d && byte % 2 == 0)) best = byte;
  }
  return static_cast<uint8_t>(best | (std::signbit(x) ? 0x80 : 0));
}

TEST(E4m3, All256BytesDecodeAsTheFormulaSays) {
  for (int byte = 0; byte < 256; ++byte) {
    const float value = e4m3_to_float(static_cast<uint8_t>(byte));
    if ((byte & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value)) << byte;
      EXPECT_TRUE(e4m3_is_nan(static_cast<uint8_t>(byte)));
      continue;
    }
    EXPECT_FALSE(e4m3_is_nan(static_cast<uint8_t>(byte)));
    EXPECT_EQ(value, by_formula(byte)) << byte;
    EXPECT_EQ(std::signbit(value), byte >= 128) << byte;
  }
}

TEST(E4m3, EveryByteSurvivesARoundTrip) {
  for (int byte = 0; byte < 256; ++byte)
    EXPECT_EQ(e4m3_from_float(e4m3_to_float(static_cast<uint8_t>(byte))), byte);
}

TEST(E4m3, EveryTieAndItsNeighboursRoundToNearestEven) {
  for (int byte = 0; byte < 0x7e; ++byte) {
    const auto tie = static_cast<float>((by_formula(byte) + by_formula(byte + 1)) / 2);
    for (float x : {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e9f)}) {
      EXPECT_EQ(e4m3_from_float(x), nearest_byte(x)) << x;
      EXPECT_EQ(e4m3_from_float(-x), nearest_byte(-x)) << -x;
    }
  }
}

TEST(E4m3, OverflowSaturatesAt448) {
  for (float x : {448.0f, 463.9f, 464.0f, 480.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(e4m3_from_float(x), 0x7e) << x;
    EXPECT_EQ(e4m3_from_float(-x), 0xfe) << -x;
  }
}

TEST(E4m3, NanStaysNan) {
  EXPECT_TRUE(e4m3_is_nan(e4m3_from_float(std::numeric_limits<float>::quiet_NaN())));
}

TEST(E4m3, EveryBf16ValueEncodesAsTorchCasts) {
  const std::vector<uint8_t> golden = read_bytes(kData + "bf16_to_e4m3.bin");
  ASSERT_EQ(golden.size(), 65536u);
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float x = to_float(Bf16{static_cast<uint16_t>(bits)});
    const uint8_t ours = e4m3_from_float(x);
    if (std::isnan(x)) {
      ASSERT_TRUE(e4m3_is_nan(ours) && e4m3_is_nan(golden[bits]));
    } else {
      ASSERT_EQ(ours, golden[bits]) << x;
    }
  }
}

TEST(E4m3, FloatsAroundTiesEncodeAsTorchCasts) {
  const std::vector<uint8_t> golden = read_bytes(kData + "f32_to_e4m3.bin");
  ASSERT_EQ(golden.size(), 4096u * 5);
  for (ByteReader reader(golden); !reader.done();) {
    const auto x = reader.take<float>();
    ASSERT_EQ(e4m3_from_float(x), reader.take<uint8_t>()) << x;
  }
}

TEST(E4m3, WorksAtCompileTime) {
  static_assert(e4m3_to_float(0x7e) == 448.0f);
  static_assert(e4m3_to_float(1) == 0x1p-9f);
  static_assert(e4m3_from_float(1.0f) == 0x38);
}

}  // namespace
}  // namespace moe4
