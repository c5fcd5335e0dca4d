// JSON numbers as languages of their decimal texts.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "grammar/dfa.h"

namespace moe4::grammar {

/// A decimal number, exact: -12.5 is {true, "12", "5"}. No zeros lead the integer part or end the
/// fraction; the integer part of 0.5 is "0".
struct Decimal {
  bool negative = false;
  std::string integer = "0";
  std::string fraction;

  bool is_zero() const { return integer == "0" && fraction.empty(); }
  std::string text() const;
};

/// From JSON's text of a number, "1e3" and "-0.50" too. Nothing for an exponent beyond +-400.
std::optional<Decimal> parse_decimal(std::string_view text);

/// The largest multiple_of(), as digits without its point.
inline constexpr uint32_t kMaxMultiple = 10'000;

// Languages of values: of every text of the form -?integer(.fraction)?, all or none of those that
// mean the same number. So they can be intersected and subtracted.
Dfa all_decimals();
/// Numbers at or above the bound. Throws TooComplex for a bound of more than 800 digits.
Dfa numbers_from(const Decimal& bound, bool is_exclusive);
/// Numbers at or below the bound.
Dfa numbers_up_to(const Decimal& bound, bool is_exclusive);
/// Throws TooComplex above kMaxMultiple. `value` is positive.
Dfa multiples_of(const Decimal& value);
Dfa number_equal_to(const Decimal& value);

/// What is written of a language of values: no negative zero; integers without a fraction, if
/// `is_integer`; other fractions without zeros at their end, but for ".0" and two digits (12.50).
/// With a fraction there are at most 15 digits, which readers that use doubles tell apart.
Dfa number_spelling(const Dfa& values, bool is_integer);
/// Any number; exponents of one or two digits. Integers have neither fraction nor exponent.
Dfa any_number(bool is_integer);

}  // namespace moe4::grammar
