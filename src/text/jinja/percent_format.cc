// %[(key)][flags][width][.precision]type, after unicode_format in CPython's
// Objects/unicodeobject.c.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <optional>

#include "text/jinja/format_spec.h"
#include "text/jinja/letter_case.h"
#include "text/jinja/operators.h"
#include "text/jinja/py_string.h"
#include "text/jinja/text_format.h"

namespace moe4::jinja {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw TemplateError("formatting with %: " + what);
}

struct Conversion {
  bool left = false;
  bool plus = false;
  bool space = false;
  bool alternate = false;
  bool zero = false;
  int64_t width = -1;
  int64_t precision = -1;
  char type = '\0';
};

class PercentFormat {
 public:
  PercentFormat(const std::string& format, const Value& values, Budget* budget)
      : format_(format), values_(values), budget_(budget), current_(&values) {
    const List* list = values.list_or_null();
    if (list != nullptr && list->tuple) tuple_ = list;
    mapping_ =
        tuple_ == nullptr && ((list != nullptr && (list->plain() || list->lazy == Lazy::kRange)) ||
                              values.dict_or_null() != nullptr || values.is_undefined());
  }

  std::string render() {
    while (position_ < format_.size()) {
      if (format_[position_] != '%') {
        out_ += format_[position_++];
        continue;
      }
      ++position_;
      one();
      if (static_cast<int64_t>(out_.size()) > kMaxTextBytes) {
        budget_->charge_text(kMaxTextBytes + 1);
      }
    }
    const bool left_over = tuple_ != nullptr ? next_ < tuple_->items.size() : !used_;
    if (left_over && !mapping_ && !keyed_) fail("not all values are used");
    budget_->charge_text(static_cast<int64_t>(out_.size()));
    return std::move(out_);
  }

 private:
  char peek() const {
    if (position_ >= format_.size()) fail("the format ends inside a conversion");
    return format_[position_];
  }

  // The next value of the tuple; a single value can be had once.
  const Value& next_value() {
    if (tuple_ != nullptr) {
      if (next_ >= tuple_->items.size()) fail("there are not enough values");
      return tuple_->items[next_++];
    }
    if (used_) fail("there are not enough values");
    used_ = true;
    return *current_;
  }

  int64_t star() {
    const Value& value = next_value();
    ++position_;
    const int64_t count = int_of(value, "formatting with %: *");
    if (count > kMaxTextBytes || count < -kMaxTextBytes) budget_->charge_text(kMaxTextBytes + 1);
    return count;
  }

  void read_key() {
    if (tuple_ != nullptr || values_.dict_or_null() == nullptr) fail("a key needs a mapping");
    const size_t begin = ++position_;
    for (int open = 1; open > 0; ++position_) {
      open += peek() == '(' ? 1 : (peek() == ')' ? -1 : 0);
    }
    const std::string key = format_.substr(begin, position_ - 1 - begin);
    current_ = values_.dict_or_null()->find(std::string_view(key));
    if (current_ == nullptr) fail("there is no key '" + key + "'");
    keyed_ = true;
    used_ = false;
  }

  Conversion read_conversion() {
    Conversion conversion;
    for (;; ++position_) {
      const char c = peek();
      bool* flag = c == '-'   ? &conversion.left
                   : c == '+' ? &conversion.plus
                   : c == ' ' ? &conversion.space
                   : c == '#' ? &conversion.alternate
                   : c == '0' ? &conversion.zero
                              : nullptr;
      if (flag == nullptr) break;
      *flag = true;
    }
    if (peek() == '*') {
      conversion.width = star();
      if (conversion.width < 0) {
        conversion.left = true;
        conversion.width = -conversion.width;
      }
    } else {
      conversion.width = read_count(format_, &position_);
    }
    if (peek() == '.') {
      ++position_;
      conversion.precision = peek() == '*' ? star() : read_count(format_, &position_);
      conversion.precision = std::max<int64_t>(conversion.precision, 0);
    }
    if (peek() == 'h' || peek() == 'l' || peek() == 'L') ++position_;
    conversion.type = peek();
    ++position_;
    return conversion;
  }

  void one() {
    if (peek() == '(') read_key();
    const Conversion conversion = read_conversion();
    if (conversion.type == '%') {
      out_ += '%';
      return;
    }
    const Value& value = next_value();
    switch (conversion.type) {
      case 's':
      case 'r':
      case 'a':
        return text(value, conversion);
      case 'c':
        return character(value, conversion);
      case 'd':
      case 'i':
      case 'u':
      case 'o':
      case 'x':
      case 'X':
        return integer(value, conversion);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        return floating(value, conversion);
      default:
        fail("unsupported format character '" + printable_character(conversion.type) + "'");
    }
  }

  static std::string printable_character(char c) {
    return c >= 0x20 && c < 0x7F ? std::string(1, c) : std::string("?");
  }

  // Pads with spaces, or with zeros between `head` and `body`.
  void emit(const std::string& head, const std::string& body, const Conversion& conversion,
            bool zeros) {
    const int64_t missing =
        std::max<int64_t>(conversion.width - count_code_points(head) - count_code_points(body), 0);
    budget_->charge_text(missing + static_cast<int64_t>(body.size()));
    const std::string fill(static_cast<size_t>(missing), zeros && !conversion.left ? '0' : ' ');
    if (conversion.left) {
      out_ += head + body + fill;
    } else {
      out_ += zeros ? head + fill + body : fill + head + body;
    }
  }

  void text(const Value& value, const Conversion& conversion) {
    budget_->charge(value.weight());
    std::string whole = conversion.type == 's' ? to_text(value) : to_repr(value);
    if (conversion.type == 'a') whole = escape_non_ascii(whole);
    emit("", std::string(first_code_points(whole, conversion.precision)), conversion, false);
  }

  void character(const Value& value, const Conversion& conversion) {
    if (value.is_text() && count_code_points(value.text_or_null()->bytes) != 1) {
      fail("%c needs an integer or one character");
    }
    emit("", value.is_text() ? value.text_or_null()->bytes : character_of(value), conversion,
         false);
  }

  static std::string sign(bool negative, const Conversion& conversion) {
    return negative ? "-" : (conversion.plus ? "+" : (conversion.space ? " " : ""));
  }

  void integer(const Value& value, const Conversion& conversion) {
    const bool decimal = std::string_view("diu").find(conversion.type) != std::string_view::npos;
    Value number = value;
    if (decimal && value.is_float()) {
      if (!std::isfinite(value.as_float())) fail("infinity and NaN are no integers");
      number = Value::integer(BigInt::truncate(value.as_float()));
    }
    if (!number.is_number() || number.is_float()) {
      fail(std::string("%") + conversion.type + " needs an integer, not " + value.type_name());
    }
    std::string digits = integer_digits(number, decimal ? 'd' : conversion.type);
    const int64_t zeros = conversion.precision - static_cast<int64_t>(digits.size());
    if (zeros > 0) {
      budget_->charge_text(zeros);
      digits.insert(0, static_cast<size_t>(zeros), '0');
    }
    std::string head = sign(is_negative(number), conversion);
    if (conversion.alternate && !decimal) head += std::string{'0', conversion.type};
    emit(head, digits, conversion, conversion.zero);
  }

  void floating(const Value& value, const Conversion& conversion) {
    if (!value.is_number()) {
      fail(std::string("%") + conversion.type + " needs a number, not " + value.type_name());
    }
    const double number = value.as_float();
    const std::string head = sign(std::signbit(number) && !std::isnan(number), conversion);
    if (!std::isfinite(number)) {
      const std::string name = std::isnan(number) ? "nan" : "inf";
      const bool capital = std::isupper(static_cast<unsigned char>(conversion.type)) != 0;
      return emit(head, capital ? upper(name) : name, conversion, conversion.zero);
    }
    const int64_t precision = conversion.precision < 0 ? 6 : conversion.precision;
    budget_->charge_text(precision);
    emit(head, float_digits(std::fabs(number), conversion.type, precision, conversion.alternate),
         conversion, conversion.zero);
  }

  const std::string& format_;
  const Value& values_;
  Budget* budget_;
  const Value* current_;
  const List* tuple_ = nullptr;
  bool mapping_ = false;  // left-over values of these are no mistake
  bool keyed_ = false;
  bool used_ = false;
  size_t next_ = 0;
  size_t position_ = 0;
  std::string out_;
};

}  // namespace

std::string format_percent(const std::string& format, const Value& values, Budget* budget) {
  return PercentFormat(format, values, budget).render();
}

}  // namespace moe4::jinja
