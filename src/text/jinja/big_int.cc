// Schoolbook arithmetic in limbs of 32 bits: the sizes are bounded and small.
#include "text/jinja/big_int.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace moe4::jinja {
namespace {

void charge(Budget* budget, size_t a, size_t b) {
  budget->charge(1 + static_cast<int64_t>(a * b) / 16);
}

int digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'z') return c - 'a' + 10;
  if (c >= 'A' && c <= 'Z') return c - 'A' + 10;
  return 99;
}

}  // namespace

void BigInt::trim() {
  while (!limbs_.empty() && limbs_.back() == 0) limbs_.pop_back();
  if (limbs_.empty()) negative_ = false;
  if (bits() > kMaxBits) throw TemplateError("an integer has more than 16384 bits");
}

int64_t BigInt::bits() const {
  if (limbs_.empty()) return 0;
  return static_cast<int64_t>(limbs_.size()) * 32 - std::countl_zero(limbs_.back());
}

BigInt::BigInt(int64_t value) : negative_(value < 0) {
  auto magnitude = static_cast<uint64_t>(value);
  if (negative_) magnitude = ~magnitude + 1;
  for (; magnitude != 0; magnitude >>= 32) limbs_.push_back(static_cast<uint32_t>(magnitude));
}

std::optional<BigInt> BigInt::parse(std::string_view digits, int base) {
  if (digits.empty()) return std::nullopt;
  for (const char c : digits) {
    if (digit_value(c) >= base) return std::nullopt;
  }
  const bool power_of_two = std::has_single_bit(static_cast<unsigned>(base));
  if (digits.size() > (power_of_two ? static_cast<size_t>(kMaxBits) : kMaxDigits)) {
    throw TemplateError("an integer has more than " + std::to_string(kMaxDigits) + " digits");
  }
  BigInt result;
  for (const char c : digits) {
    uint64_t carry = static_cast<uint64_t>(digit_value(c));
    for (uint32_t& limb : result.limbs_) {
      carry += uint64_t{limb} * static_cast<uint64_t>(base);
      limb = static_cast<uint32_t>(carry);
      carry >>= 32;
    }
    if (carry != 0) result.limbs_.push_back(static_cast<uint32_t>(carry));
  }
  result.trim();
  return result;
}

BigInt BigInt::truncate(double value) {
  int exponent = 0;
  const double fraction = std::frexp(std::trunc(value), &exponent);  // in [0.5, 1)
  if (exponent <= 62) return BigInt(static_cast<int64_t>(value));
  BigInt result(static_cast<int64_t>(std::ldexp(fraction, 53)));
  result.limbs_ = shift_magnitude(result.limbs_, exponent - 53);
  return result;
}

BigInt::Limbs BigInt::shift_magnitude(const Limbs& a, int64_t count) {
  Limbs result(static_cast<size_t>(count / 32), 0);
  const int shift = static_cast<int>(count % 32);
  uint32_t carry = 0;
  for (const uint32_t limb : a) {
    const uint64_t wide = uint64_t{limb} << shift;
    result.push_back(static_cast<uint32_t>(wide) | carry);
    carry = static_cast<uint32_t>(wide >> 32);
  }
  if (carry != 0) result.push_back(carry);
  return result;
}

std::optional<int64_t> BigInt::to_int64() const {
  if (limbs_.size() > 2) return std::nullopt;
  uint64_t magnitude = 0;
  for (size_t i = limbs_.size(); i-- > 0;) magnitude = magnitude << 32 | limbs_[i];
  constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (magnitude > kMost + (negative_ ? 1 : 0)) return std::nullopt;
  return static_cast<int64_t>(negative_ ? ~magnitude + 1 : magnitude);
}

double BigInt::to_double() const {
  // The top 64 bits, the last of them "sticky": nonzero when anything below is.
  const int64_t shift = std::max<int64_t>(bits() - 64, 0);
  uint64_t top = 0;
  bool sticky = false;
  for (size_t i = limbs_.size(); i-- > 0;) {
    for (int bit = 31; bit >= 0; --bit) {
      const int64_t position = static_cast<int64_t>(i) * 32 + bit;
      const uint32_t value = limbs_[i] >> bit & 1;
      if (position >= shift) {
        top = top << 1 | value;
      } else {
        sticky = sticky || value != 0;
      }
    }
  }
  const double magnitude =
      std::ldexp(static_cast<double>(top | (sticky ? 1 : 0)), static_cast<int>(shift));
  if (std::isinf(magnitude)) throw TemplateError("an integer is too large for a float");
  return negative_ ? -magnitude : magnitude;
}

std::string BigInt::to_string(int base) const {
  if (is_zero()) return "0";
  const int bits_a_digit = base == 2 ? 1 : (base == 8 ? 3 : 4);
  std::string out;
  if (base == 10) {
    Limbs left = limbs_;
    while (!left.empty()) {  // nine digits at a time
      uint64_t remainder = 0;
      for (size_t i = left.size(); i-- > 0;) {
        remainder = remainder << 32 | left[i];
        left[i] = static_cast<uint32_t>(remainder / 1'000'000'000);
        remainder %= 1'000'000'000;
      }
      while (!left.empty() && left.back() == 0) left.pop_back();
      for (int i = 0; i < 9 && (remainder != 0 || !left.empty()); ++i, remainder /= 10) {
        out += static_cast<char>('0' + remainder % 10);
      }
    }
    if (out.size() > kMaxDigits) {
      throw TemplateError("an integer has more than " + std::to_string(kMaxDigits) +
                          " digits, which is too many to write");
    }
  } else {
    for (int64_t from = 0; from < bits(); from += bits_a_digit) {
      unsigned digit = 0;
      for (int i = bits_a_digit; i-- > 0;) {
        const auto limb = static_cast<size_t>((from + i) / 32);
        digit = digit << 1 | (limb < limbs_.size() ? limbs_[limb] >> ((from + i) % 32) & 1 : 0);
      }
      out += "0123456789abcdef"[digit];
    }
  }
  if (negative_) out += '-';
  std::reverse(out.begin(), out.end());
  return out;
}

BigInt BigInt::negated() const {
  BigInt result = *this;
  result.negative_ = !negative_ && !is_zero();
  return result;
}

std::strong_ordering BigInt::compare_magnitude(const Limbs& a, const Limbs& b) {
  if (a.size() != b.size()) return a.size() <=> b.size();
  for (size_t i = a.size(); i-- > 0;) {
    if (a[i] != b[i]) return a[i] <=> b[i];
  }
  return std::strong_ordering::equal;
}

std::strong_ordering operator<=>(const BigInt& a, const BigInt& b) {
  if (a.negative_ != b.negative_) return b.negative_ <=> a.negative_;
  return a.negative_ ? BigInt::compare_magnitude(b.limbs_, a.limbs_)
                     : BigInt::compare_magnitude(a.limbs_, b.limbs_);
}

BigInt::Limbs BigInt::add_magnitude(const Limbs& a, const Limbs& b) {
  Limbs sum;
  uint64_t carry = 0;
  for (size_t i = 0; i < std::max(a.size(), b.size()) || carry != 0; ++i) {
    carry += (i < a.size() ? a[i] : uint64_t{0}) + (i < b.size() ? b[i] : uint64_t{0});
    sum.push_back(static_cast<uint32_t>(carry));
    carry >>= 32;
  }
  return sum;
}

BigInt::Limbs BigInt::subtract_magnitude(const Limbs& a, const Limbs& b) {
  Limbs difference = a;
  int64_t borrow = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    int64_t value = int64_t{a[i]} - (i < b.size() ? int64_t{b[i]} : 0) - borrow;
    borrow = value < 0 ? 1 : 0;
    value += borrow << 32;
    difference[i] = static_cast<uint32_t>(value);
  }
  while (!difference.empty() && difference.back() == 0) difference.pop_back();
  return difference;
}

BigInt BigInt::add(const BigInt& a, const BigInt& b) {
  BigInt result;
  if (a.negative_ == b.negative_) {
    result.negative_ = a.negative_;
    result.limbs_ = add_magnitude(a.limbs_, b.limbs_);
  } else {
    const bool a_wins = std::is_gteq(compare_magnitude(a.limbs_, b.limbs_));
    result.negative_ = a_wins ? a.negative_ : b.negative_;
    result.limbs_ =
        a_wins ? subtract_magnitude(a.limbs_, b.limbs_) : subtract_magnitude(b.limbs_, a.limbs_);
  }
  result.trim();
  return result;
}

BigInt BigInt::multiply(const BigInt& a, const BigInt& b, Budget* budget) {
  charge(budget, a.size(), b.size());
  if (a.bits() + b.bits() > kMaxBits + 1) {
    throw TemplateError("an integer has more than 16384 bits");
  }
  BigInt result;
  result.negative_ = a.negative_ != b.negative_;
  result.limbs_.assign(a.size() + b.size(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    uint64_t carry = 0;
    for (size_t j = 0; j < b.size(); ++j) {
      carry += uint64_t{a.limbs_[i]} * b.limbs_[j] + result.limbs_[i + j];
      result.limbs_[i + j] = static_cast<uint32_t>(carry);
      carry >>= 32;
    }
    result.limbs_[i + b.size()] = static_cast<uint32_t>(carry);
  }
  result.trim();
  return result;
}

// Knuth's algorithm D (The Art of Computer Programming, 4.3.1).
BigInt::Limbs BigInt::divide_magnitude(const Limbs& a, const Limbs& b, Limbs* remainder) {
  if (std::is_lt(compare_magnitude(a, b))) {
    *remainder = a;
    return {};
  }
  Limbs quotient(a.size());
  if (b.size() == 1) {
    uint64_t rest = 0;
    for (size_t i = a.size(); i-- > 0;) {
      rest = rest << 32 | a[i];
      quotient[i] = static_cast<uint32_t>(rest / b[0]);
      rest %= b[0];
    }
    *remainder = rest == 0 ? Limbs{} : Limbs{static_cast<uint32_t>(rest)};
    return quotient;
  }
  const int shift = std::countl_zero(b.back());
  const auto shifted = [shift](const Limbs& limbs) {
    Limbs out;
    uint64_t carry = 0;
    for (const uint32_t limb : limbs) {
      carry |= uint64_t{limb} << shift;
      out.push_back(static_cast<uint32_t>(carry));
      carry >>= 32;
    }
    out.push_back(static_cast<uint32_t>(carry));
    return out;
  };
  Limbs u = shifted(a);
  const Limbs v = shifted(b);
  const size_t n = b.size();
  for (size_t j = a.size() - n + 1; j-- > 0;) {
    const uint64_t top = uint64_t{u[j + n]} << 32 | u[j + n - 1];
    uint64_t guess = top / v[n - 1];
    uint64_t rest = top % v[n - 1];
    while (guess >> 32 != 0 || guess * v[n - 2] > (rest << 32 | u[j + n - 2])) {
      --guess;
      rest += v[n - 1];
      if (rest >> 32 != 0) break;
    }
    int64_t borrow = 0;
    uint64_t carry = 0;
    for (size_t i = 0; i < n; ++i) {
      carry += guess * v[i];
      const int64_t value = int64_t{u[i + j]} - static_cast<int64_t>(carry & 0xFFFFFFFF) - borrow;
      carry >>= 32;
      u[i + j] = static_cast<uint32_t>(value);
      borrow = value < 0 ? 1 : 0;
    }
    const int64_t value = int64_t{u[j + n]} - static_cast<int64_t>(carry) - borrow;
    u[j + n] = static_cast<uint32_t>(value);
    if (value < 0) {  // the guess was one too many
      --guess;
      uint64_t back = 0;
      for (size_t i = 0; i < n; ++i) {
        back += uint64_t{u[i + j]} + v[i];
        u[i + j] = static_cast<uint32_t>(back);
        back >>= 32;
      }
      u[j + n] += static_cast<uint32_t>(back);
    }
    quotient[j] = static_cast<uint32_t>(guess);
  }
  remainder->assign(n, 0);
  for (size_t i = 0; i < n; ++i) {
    const uint64_t pair = uint64_t{u[i + 1]} << 32 | u[i];
    (*remainder)[i] = static_cast<uint32_t>(pair >> shift);
  }
  while (!remainder->empty() && remainder->back() == 0) remainder->pop_back();
  return quotient;
}

BigInt BigInt::floor_divide(const BigInt& a, const BigInt& b, BigInt* remainder, Budget* budget) {
  charge(budget, a.size(), b.size());
  BigInt quotient;
  BigInt rest;
  quotient.limbs_ = divide_magnitude(a.limbs_, b.limbs_, &rest.limbs_);
  quotient.negative_ = a.negative_ != b.negative_;
  rest.negative_ = a.negative_;
  quotient.trim();
  rest.trim();
  if (!rest.is_zero() && rest.negative_ != b.negative_) {
    rest = add(rest, b);
    quotient = add(quotient, BigInt(-1));
  }
  if (remainder != nullptr) *remainder = std::move(rest);
  return quotient;
}

double BigInt::true_divide(const BigInt& a, const BigInt& b, Budget* budget) {
  if (a.is_zero()) return 0;
  charge(budget, a.size(), b.size());
  // A quotient of at least 66 bits whose last bit is sticky rounds once, in to_double.
  const int64_t shift = std::max<int64_t>(66 - (a.bits() - b.bits()), 0);
  Limbs remainder;
  BigInt quotient;
  quotient.limbs_ = divide_magnitude(shift_magnitude(a.limbs_, shift), b.limbs_, &remainder);
  if (!remainder.empty()) quotient.limbs_[0] |= 1;
  quotient.trim();
  int exponent = 0;
  const double fraction = std::frexp(quotient.to_double(), &exponent);
  const double value = std::ldexp(fraction, exponent - static_cast<int>(shift));
  return a.negative_ != b.negative_ ? -value : value;
}

BigInt BigInt::power(const BigInt& base, int64_t exponent, Budget* budget) {
  BigInt result(1);
  BigInt square = base;
  while (true) {
    if (exponent % 2 != 0) result = multiply(result, square, budget);
    exponent /= 2;
    if (exponent == 0) return result;
    square = multiply(square, square, budget);
  }
}

}  // namespace moe4::jinja
