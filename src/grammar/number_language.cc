// Comparison of decimal texts, digit by digit.
#include "grammar/number_language.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "grammar/regex.h"

namespace moe4::grammar {
namespace {

constexpr size_t kMaxDigits = 800;

enum class Phase : uint8_t { kStart, kSign, kZero, kInteger, kPoint, kFraction };

// Of the digits so far against a bound's magnitude.
enum class Order : uint8_t { kLess, kEqual, kMore };

struct State {
  Phase phase = Phase::kStart;
  bool negative = false;
  bool nonzero = false;  // some digit is not 0
  Order order = Order::kEqual;
  // Digits of the integer part, up to one more than the bound has; then, while all are equal, of
  // the fraction, up to as many as the bound has.
  uint32_t count = 0;
};

uint64_t pack(const State& s) {
  return uint64_t{s.count} << 16 | static_cast<uint64_t>(s.order) << 12 |
         static_cast<uint64_t>(s.phase) << 4 | (s.negative ? 2U : 0U) | (s.nonzero ? 1U : 0U);
}

State unpack(uint64_t key) {
  return {.phase = static_cast<Phase>(key >> 4 & 0xF),
          .negative = (key & 2) != 0,
          .nonzero = (key & 1) != 0,
          .order = static_cast<Order>(key >> 12 & 0xF),
          .count = static_cast<uint32_t>(key >> 16)};
}

// Where a sign, a point or a digit leads; false where none may be.
bool advance(Phase& phase, bool& negative, uint8_t byte) {
  if (byte == '-') {
    if (phase != Phase::kStart) return false;
    phase = Phase::kSign;
    negative = true;
    return true;
  }
  if (byte == '.') {
    if (phase != Phase::kZero && phase != Phase::kInteger) return false;
    phase = Phase::kPoint;
    return true;
  }
  if (byte < '0' || byte > '9' || phase == Phase::kZero) return false;
  if (phase == Phase::kStart || phase == Phase::kSign) {
    phase = byte == '0' ? Phase::kZero : Phase::kInteger;
  } else if (phase == Phase::kPoint) {
    phase = Phase::kFraction;
  }
  return true;
}

bool is_number(Phase phase) {
  return phase == Phase::kZero || phase == Phase::kInteger || phase == Phase::kFraction;
}

ByteClasses number_classes() {
  ByteClasses classes;
  for (size_t i = 0; i < 10; ++i) classes.of['0' + i] = static_cast<uint8_t>(i + 1);
  classes.of['-'] = 11;
  classes.of['.'] = 12;
  classes.count = 13;
  return classes;
}

// The integer part is whole: its length counts before its digits.
void end_integer(State& s, const Decimal& bound) {
  if (s.count != bound.integer.size()) {
    s.order = s.count < bound.integer.size() ? Order::kLess : Order::kMore;
  }
  s.count = 0;
}

uint64_t compare_step(const Decimal& bound, uint64_t key, uint8_t byte) {
  State s = unpack(key);
  const bool was_integer = s.phase != Phase::kPoint && s.phase != Phase::kFraction;
  if (!advance(s.phase, s.negative, byte)) return Machine::kNowhere;
  if (byte == '-') return pack(s);
  if (byte == '.') {
    end_integer(s, bound);
    return pack(s);
  }
  s.nonzero = s.nonzero || byte != '0';
  const std::string& digits = was_integer ? bound.integer : bound.fraction;
  if (was_integer && s.count >= digits.size()) {
    s.count = static_cast<uint32_t>(digits.size() + 1);
    return pack(s);
  }
  const auto other = static_cast<uint8_t>(s.count < digits.size() ? digits[s.count] : '0');
  if (s.order == Order::kEqual && byte != other) {
    s.order = byte > other ? Order::kMore : Order::kLess;
  }
  if (was_integer) {
    ++s.count;
  } else {
    s.count = s.order == Order::kEqual && s.count < digits.size() ? s.count + 1 : s.count;
    if (s.order != Order::kEqual) s.count = 0;
  }
  return pack(s);
}

// The whole number, its sign included, against the bound.
Order compare_end(const Decimal& bound, uint64_t key) {
  State s = unpack(key);
  if (s.phase != Phase::kFraction) end_integer(s, bound);
  const bool negative = s.negative && s.nonzero;
  if (negative != bound.negative) return negative ? Order::kLess : Order::kMore;
  Order order = s.order;
  // Digits of the fraction that did not come are zeros, and the bound's last one is not.
  if (order == Order::kEqual && s.count < bound.fraction.size()) order = Order::kLess;
  if (!negative || order == Order::kEqual) return order;
  return order == Order::kLess ? Order::kMore : Order::kLess;
}

// Numbers in an order to the bound that `good` wants.
template <typename Good>
Dfa compared(const Decimal& bound, const Good& good) {
  if (std::max(bound.integer.size(), bound.fraction.size()) > kMaxDigits) {
    throw TooComplex("a number has more than " + std::to_string(kMaxDigits) + " digits");
  }
  return build(
      {.classes = number_classes(),
       .start = pack(State{}),
       .step = [&](uint64_t state, uint8_t byte) { return compare_step(bound, state, byte); },
       .accepts =
           [&](uint64_t state) {
             return is_number(unpack(state).phase) && good(compare_end(bound, state));
           }});
}

// Integers of any length, and at most kMaxFractionDigits digits around a point.
Dfa short_fractions() {
  constexpr uint64_t kMaxFractionDigits = 15;
  constexpr uint64_t kAfterPoint = 1 << 8;
  return build({.classes = number_classes(),
                .step = [](uint64_t state, uint8_t byte) -> uint64_t {
                  const uint64_t digits = state % kAfterPoint;
                  if (byte == '-') return state;
                  if (byte == '.') {
                    return digits < kMaxFractionDigits && state < kAfterPoint ? state + kAfterPoint
                                                                              : Machine::kNowhere;
                  }
                  if (byte < '0' || byte > '9') return Machine::kNowhere;
                  if (digits < kMaxFractionDigits) return state + 1;
                  return state < kAfterPoint ? state : Machine::kNowhere;
                },
                .accepts = [](uint64_t) { return true; }});
}

std::string_view without_leading_zeros(std::string_view digits) {
  return digits.substr(std::min(digits.find_first_not_of('0'), digits.size()));
}

}  // namespace

std::string Decimal::text() const {
  return (negative ? "-" : "") + integer + (fraction.empty() ? "" : "." + fraction);
}

std::optional<Decimal> parse_decimal(std::string_view text) {
  constexpr int kMaxExponent = 400;
  Decimal value;
  if (text.starts_with('-')) {
    value.negative = true;
    text.remove_prefix(1);
  }
  int exponent = 0;
  if (const size_t e = text.find_first_of("eE"); e != std::string_view::npos) {
    std::string_view digits = text.substr(e + 1);
    if (digits.starts_with('+')) digits.remove_prefix(1);
    const auto [stop, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), exponent);
    if (error != std::errc{} || stop != digits.data() + digits.size()) return std::nullopt;
    if (exponent > kMaxExponent || exponent < -kMaxExponent) return std::nullopt;
    text = text.substr(0, e);
  }
  const size_t point = text.find('.');
  std::string integer(text.substr(0, point));
  std::string fraction(point == std::string_view::npos ? "" : text.substr(point + 1));
  if (exponent > 0) {
    const auto shift = static_cast<size_t>(exponent);
    if (fraction.size() < shift) fraction.append(shift - fraction.size(), '0');
    integer += fraction.substr(0, shift);
    fraction.erase(0, shift);
  } else if (exponent < 0) {
    const auto shift = static_cast<size_t>(-exponent);
    if (integer.size() < shift) integer.insert(0, shift - integer.size(), '0');
    fraction.insert(0, integer.substr(integer.size() - shift));
    integer.erase(integer.size() - shift);
  }
  value.integer = without_leading_zeros(integer);
  if (value.integer.empty()) value.integer = "0";
  fraction.erase(fraction.find_last_not_of('0') + 1);
  value.fraction = std::move(fraction);
  if (value.is_zero()) value.negative = false;
  return value;
}

Dfa all_decimals() {
  return regex_language("-?(?:0|[1-9][0-9]*)(?:\\.[0-9]+)?", RegexMatch::kWhole);
}

Dfa numbers_from(const Decimal& bound, bool is_exclusive) {
  return compared(bound, [&](Order order) {
    return order == Order::kMore || (order == Order::kEqual && !is_exclusive);
  });
}

Dfa numbers_up_to(const Decimal& bound, bool is_exclusive) {
  return compared(bound, [&](Order order) {
    return order == Order::kLess || (order == Order::kEqual && !is_exclusive);
  });
}

Dfa number_equal_to(const Decimal& value) {
  return compared(value, [](Order order) { return order == Order::kEqual; });
}

Dfa multiples_of(const Decimal& value) {
  constexpr size_t kMaxPlaces = 100;
  uint64_t divisor = 0;  // value * 10^places
  const size_t places = value.fraction.size();
  for (const char c : value.integer + value.fraction) {
    divisor = divisor * 10 + static_cast<uint64_t>(c - '0');
    if (divisor > kMaxMultiple || places > kMaxPlaces) {
      throw TooComplex("its digits are above " + std::to_string(kMaxMultiple));
    }
  }
  // The remainder of all digits, 16 bits of phase and sign, and the places that the fraction has.
  const auto pack_key = [](Phase phase, bool negative, uint64_t remainder, uint64_t used) {
    return used << 40 | remainder << 8 | static_cast<uint64_t>(phase) << 1 | (negative ? 1U : 0U);
  };
  return build({.classes = number_classes(),
                .start = pack_key(Phase::kStart, false, 0, 0),
                .step = [&](uint64_t key, uint8_t byte) -> uint64_t {
                  auto phase = static_cast<Phase>(key >> 1 & 0x7F);
                  bool negative = (key & 1) != 0;
                  uint64_t remainder = key >> 8 & 0xFFFFFFFF, used = key >> 40;
                  if (!advance(phase, negative, byte)) return Machine::kNowhere;
                  if (byte == '-' || byte == '.') return pack_key(phase, negative, remainder, used);
                  const bool is_extra = phase == Phase::kFraction && used == places;
                  if (is_extra && byte != '0') return Machine::kNowhere;
                  if (!is_extra) {
                    remainder = (remainder * 10 + (byte - uint64_t{'0'})) % divisor;
                    if (phase == Phase::kFraction) ++used;
                  }
                  return pack_key(phase, negative, remainder, used);
                },
                .accepts =
                    [&](uint64_t key) {
                      uint64_t remainder = key >> 8 & 0xFFFFFFFF;
                      for (uint64_t used = key >> 40; used < places; ++used) {
                        remainder = remainder * 10 % divisor;
                      }
                      return is_number(static_cast<Phase>(key >> 1 & 0x7F)) && remainder == 0;
                    }});
}

Dfa number_spelling(const Dfa& values, bool is_integer) {
  if (is_integer) return intersect(values, any_number(true));
  const Dfa spelling =
      regex_language("-?(?:0|[1-9][0-9]*)(?:\\.(?:[0-9]*[1-9]|0|[0-9]0))?", RegexMatch::kWhole);
  const Dfa zero = regex_language("-0(?:\\.0+)?", RegexMatch::kWhole);
  return intersect(subtract(intersect(values, spelling), zero), short_fractions());
}

Dfa any_number(bool is_integer) {
  return regex_language(
      is_integer ? "0|-?[1-9][0-9]*" : "-?(?:0|[1-9][0-9]*)(?:\\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?",
      RegexMatch::kWhole);
}

}  // namespace moe4::grammar
