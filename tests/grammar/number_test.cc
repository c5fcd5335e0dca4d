// Languages of numbers against arithmetic.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

#include "grammar/number_language.h"

namespace moe4::grammar {
namespace {

Decimal decimal(const std::string& text) { return parse_decimal(text).value(); }

// Short decimals, exact as whole hundredths.
std::string random_decimal(std::mt19937& rng, int64_t* hundredths) {
  const auto magnitude = static_cast<int64_t>(rng() % (rng() % 2 == 0 ? 300 : 20'000));
  const bool negative = rng() % 2 == 0;
  *hundredths = negative ? -magnitude : magnitude;
  std::string text = std::to_string(magnitude / 100);
  const int64_t part = magnitude % 100;
  if (part != 0) text += "." + std::to_string(part / 10) + std::to_string(part % 10);
  if (part != 0 && rng() % 3 == 0) text += "0";
  return (negative && magnitude != 0 ? "-" : "") + text;
}

TEST(NumberLanguage, BoundsAreThoseOfArithmetic) {
  std::mt19937 rng(2);
  for (int i = 0; i < 60; ++i) {
    int64_t bound = 0;
    const std::string text = random_decimal(rng, &bound);
    const Dfa from = numbers_from(decimal(text), false), above = numbers_from(decimal(text), true);
    const Dfa up_to = numbers_up_to(decimal(text), false), equal = number_equal_to(decimal(text));
    for (int j = 0; j < 500; ++j) {
      int64_t value = 0;
      std::string number = random_decimal(rng, &value);
      if (j == 0) {
        number = text;
        value = bound;
      }
      EXPECT_EQ(from.accepts(number), value >= bound) << number << " >= " << text;
      EXPECT_EQ(above.accepts(number), value > bound) << number << " > " << text;
      EXPECT_EQ(up_to.accepts(number), value <= bound) << number << " <= " << text;
      EXPECT_EQ(equal.accepts(number), value == bound) << number << " = " << text;
    }
  }
}

TEST(NumberLanguage, MultiplesAreThoseOfArithmetic) {
  std::mt19937 rng(3);
  for (const char* multiple : {"1", "3", "7", "0.01", "0.5", "1.5", "0.25", "2.5", "100"}) {
    int64_t step = std::llround(std::stod(multiple) * 100);
    const Dfa language = multiples_of(decimal(multiple));
    for (int j = 0; j < 1'000; ++j) {
      int64_t value = 0;
      const std::string number = random_decimal(rng, &value);
      EXPECT_EQ(language.accepts(number), value % step == 0) << number << " of " << multiple;
    }
  }
}

TEST(NumberLanguage, DecimalsAreExact) {
  EXPECT_EQ(decimal("1e3").text(), "1000");
  EXPECT_EQ(decimal("-0.50").text(), "-0.5");
  EXPECT_EQ(decimal("12.5e-2").text(), "0.125");
  EXPECT_EQ(decimal("-0").text(), "0");
  EXPECT_FALSE(parse_decimal("1e999").has_value());
  const Dfa big = numbers_from(decimal("9223372036854775808"), false);
  EXPECT_FALSE(big.accepts("9223372036854775807"));
  EXPECT_TRUE(big.accepts("9223372036854775808"));
  EXPECT_TRUE(big.accepts("10000000000000000000"));
  EXPECT_THROW(multiples_of(decimal("1e308")), TooComplex);
}

TEST(NumberLanguage, NegativeZeroIsNotWritten) {
  const Dfa all = number_spelling(all_decimals(), false);
  EXPECT_FALSE(all.accepts("-0"));
  EXPECT_FALSE(all.accepts("-0.0"));
  EXPECT_TRUE(all.accepts("-0.5"));
  EXPECT_TRUE(all.accepts("12.50"));
  EXPECT_FALSE(all.accepts("0.5000"));
  EXPECT_FALSE(number_spelling(all_decimals(), true).accepts("1.0"));
}

}  // namespace
}  // namespace moe4::grammar
