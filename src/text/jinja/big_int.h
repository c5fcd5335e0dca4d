// Integers of any size, as Python has them: exact, with a bound on their size.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/budget.h"

namespace moe4::jinja {

/// Sign and magnitude. All operations throw TemplateError for results beyond kMaxBits, and charge
/// the budget for their work.
class BigInt {
 public:
  static constexpr int64_t kMaxBits = 16384;
  static constexpr size_t kMaxDigits = 4300;  // decimal; Python's limit between int and str

  BigInt() = default;
  explicit BigInt(int64_t value);
  /// Digits of `base` (2 to 36), nothing else; nullopt for other text. Throws beyond the limits.
  static std::optional<BigInt> parse(std::string_view digits, int base);
  /// Towards zero; `value` must be finite.
  static BigInt truncate(double value);

  bool negative() const { return negative_; }
  bool is_zero() const { return limbs_.empty(); }
  /// nullopt beyond 64 bits.
  std::optional<int64_t> to_int64() const;
  /// Nearest, ties to even; throws when it is beyond the range of a float.
  double to_double() const;
  /// Without prefix; lower case. `base` is 2, 8, 10 or 16.
  std::string to_string(int base = 10) const;
  BigInt negated() const;
  /// For keys of dicts and budgets.
  size_t size() const { return limbs_.size(); }

  friend std::strong_ordering operator<=>(const BigInt& a, const BigInt& b);
  friend bool operator==(const BigInt& a, const BigInt& b) = default;

  static BigInt add(const BigInt& a, const BigInt& b);
  static BigInt multiply(const BigInt& a, const BigInt& b, Budget* budget);
  /// Rounds towards minus infinity, as // and % do. `b` must not be zero.
  static BigInt floor_divide(const BigInt& a, const BigInt& b, BigInt* remainder, Budget* budget);
  /// a / b as a float, correctly rounded. `b` must not be zero.
  static double true_divide(const BigInt& a, const BigInt& b, Budget* budget);
  static BigInt power(const BigInt& base, int64_t exponent, Budget* budget);

 private:
  using Limbs = std::vector<uint32_t>;
  void trim();
  int64_t bits() const;
  static std::strong_ordering compare_magnitude(const Limbs& a, const Limbs& b);
  static Limbs add_magnitude(const Limbs& a, const Limbs& b);
  static Limbs subtract_magnitude(const Limbs& a, const Limbs& b);  // a >= b
  static Limbs divide_magnitude(const Limbs& a, const Limbs& b, Limbs* remainder);
  static Limbs shift_magnitude(const Limbs& a, int64_t count);  // to the left; a is not zero

  bool negative_ = false;
  Limbs limbs_;  // least significant first, no leading zeros
};

}  // namespace moe4::jinja
