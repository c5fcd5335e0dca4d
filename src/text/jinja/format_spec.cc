// [[fill]align][sign][z][#][0][width][grouping][.precision][type], after CPython's
// Python/formatter_unicode.c.
#include "text/jinja/format_spec.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <vector>

#include "text/jinja/letter_case.h"
#include "text/jinja/operators.h"
#include "text/jinja/py_string.h"
#include "text/utf8.h"

namespace moe4::jinja {
namespace {

struct FormatSpec {
  std::string fill = " ";
  char align = '\0';  // < > = ^; none: the type's own
  char sign = '\0';   // + - or space
  bool no_negative_zero = false;
  bool alternate = false;
  int64_t width = -1;
  char grouping = '\0';  // , or _
  int64_t precision = -1;
  char type = '\0';
};

[[noreturn]] void refuse(const std::string& what, const Value& value) {
  throw TemplateError("format: " + what + " for a value of type " + value.type_name());
}

bool is_align(std::string_view character) {
  return character.size() == 1 && std::string_view("<>=^").find(character[0]) != std::string::npos;
}

FormatSpec parse(std::string_view text, const Value& value, char default_align) {
  FormatSpec spec;
  size_t position = 0;
  const auto peek = [&](std::string_view choices) {
    return position < text.size() && choices.find(text[position]) != std::string_view::npos;
  };
  const auto take = [&](std::string_view choices) {
    return peek(choices) ? text[position++] : '\0';
  };
  bool fill_given = false;
  if (!text.empty()) {
    size_t second = 0;
    next_code_point(text, &second);
    if (second < text.size() && is_align(text.substr(second, 1))) {
      spec.fill = text.substr(0, second);
      spec.align = text[second];
      position = second + 1;
      fill_given = true;
    } else {
      spec.align = take("<>=^");
    }
  }
  spec.sign = take("+- ");
  spec.no_negative_zero = take("z") != '\0';
  spec.alternate = take("#") != '\0';
  if (!fill_given && take("0") != '\0') {
    spec.fill = "0";
    if (spec.align == '\0' && default_align == '>') spec.align = '=';
  }
  spec.width = read_count(text, &position);
  spec.grouping = take(",_");
  if (peek(",_")) refuse("two kinds of grouping", value);
  if (take(".") != '\0') {
    spec.precision = read_count(text, &position);
    if (spec.precision < 0) refuse("a point without precision", value);
  }
  if (position + 1 < text.size()) refuse("invalid format '" + std::string(text) + "'", value);
  if (position < text.size()) spec.type = text[position];
  if (spec.align == '\0') spec.align = default_align;
  return spec;
}

// `head` (sign and prefix) stays in front of the zeros that '=' fills in.
std::string pad(const std::string& head, const std::string& body, const FormatSpec& spec,
                Budget* budget) {
  const int64_t missing =
      std::max<int64_t>(spec.width - count_code_points(head) - count_code_points(body), 0);
  budget->charge_text(missing * static_cast<int64_t>(spec.fill.size()) +
                      static_cast<int64_t>(body.size()));
  const int64_t left = spec.align == '>' || spec.align == '=' ? missing
                       : spec.align == '^'                    ? missing / 2
                                                              : 0;
  const auto fill = [&](int64_t count) {
    std::string out;
    for (int64_t i = 0; i < count; ++i) out += spec.fill;
    return out;
  };
  if (spec.align == '=') return head + fill(missing) + body;
  return fill(left) + head + body + fill(missing - left);
}

// Separators between groups, and zeros in front until `width` is reached.
std::string group(std::string digits, char separator, size_t size, int64_t width, Budget* budget) {
  const auto grouped = [&](int64_t count) {
    return count + (separator == '\0' ? 0 : (count - 1) / static_cast<int64_t>(size));
  };
  auto count = static_cast<int64_t>(digits.size());
  while (grouped(count) < width) ++count;
  budget->charge_text(2 * count);
  digits.insert(0, static_cast<size_t>(count) - digits.size(), '0');
  if (separator == '\0') return digits;
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % size == 0) out += separator;
    out += digits[i];
  }
  return out;
}

std::string finish_number(bool negative, const std::string& prefix, const std::string& digits,
                          const std::string& rest, size_t group_size, const FormatSpec& spec,
                          Budget* budget) {
  std::string head;
  if (negative) {
    head = "-";
  } else if (spec.sign == '+' || spec.sign == ' ') {
    head = spec.sign;
  }
  head += prefix;
  // Zeros that pad count as digits, so they are grouped too.
  const bool zeros = spec.fill == "0" && spec.align == '=' && spec.grouping != '\0';
  const int64_t width =
      zeros ? spec.width - static_cast<int64_t>(head.size() + rest.size()) : int64_t{0};
  return pad(head, group(digits, spec.grouping, group_size, width, budget) + rest, spec, budget);
}

std::string format_float(const Value& value, FormatSpec spec, Budget* budget) {
  double number = value.as_float();
  const bool percent = spec.type == '%';
  if (percent) number *= 100;
  const char type = percent ? 'f' : (spec.type == 'n' ? 'g' : spec.type);
  bool negative = std::signbit(number) && !std::isnan(number);
  const double magnitude = std::fabs(number);
  std::string text;
  if (!std::isfinite(number)) {
    text = std::isnan(number) ? "nan" : "inf";
    if (std::isupper(static_cast<unsigned char>(type)) != 0) text = upper(text);
  } else if (type == '\0' && spec.precision < 0) {
    text = float_repr(magnitude);
  } else if (type == '\0') {
    // Like 'g', but with a digit behind the point and an exponent one digit earlier.
    const int64_t precision = std::max<int64_t>(spec.precision, 1);
    budget->charge_text(precision);
    const std::string scientific = float_digits(magnitude, 'e', precision - 1, false);
    const int exponent = std::atoi(scientific.c_str() + scientific.find('e') + 1);
    if (exponent < -4 || exponent >= precision - 1) {
      const size_t mark = scientific.find('e');
      std::string mantissa = scientific.substr(0, mark);
      if (mantissa.find('.') != std::string::npos) {
        mantissa.erase(mantissa.find_last_not_of('0') + 1);
        if (mantissa.back() == '.') mantissa.pop_back();
      }
      text = mantissa + scientific.substr(mark);
    } else {
      text = float_digits(magnitude, 'g', precision, spec.alternate);
      if (text.find('.') == std::string::npos) text += ".0";
    }
  } else {
    const int64_t precision = spec.precision < 0 ? 6 : spec.precision;
    budget->charge_text(precision);
    text = float_digits(magnitude, type, precision, spec.alternate);
  }
  if (spec.no_negative_zero && text.find_first_of("123456789in") == std::string::npos) {
    negative = false;
  }
  size_t whole = 0;
  while (whole < text.size() && std::isdigit(static_cast<unsigned char>(text[whole])) != 0) ++whole;
  return finish_number(negative, "", text.substr(0, whole),
                       text.substr(whole) + (percent ? "%" : ""), 3, spec, budget);
}

std::string format_integer(const Value& value, const FormatSpec& spec, Budget* budget) {
  const char type = spec.type == '\0' || spec.type == 'n' ? 'd' : spec.type;
  if (std::string_view("eEfFgG%").find(type) != std::string_view::npos) {
    return format_float(Value(value.as_float()), spec, budget);
  }
  if (std::string_view("dbcoxX").find(type) == std::string_view::npos) {
    refuse(std::string("unknown format code '") + type + "'", value);
  }
  if (spec.precision >= 0) refuse("a precision", value);
  if (spec.no_negative_zero) refuse("'z'", value);
  if (type == 'c') {
    if (spec.sign != '\0' || spec.alternate || spec.grouping != '\0') {
      refuse("a sign, '#' or grouping with 'c'", value);
    }
    return pad("", character_of(value), spec, budget);
  }
  if (spec.grouping == ',' && type != 'd') refuse("',' with a base", value);
  const std::string prefix = spec.alternate && type != 'd' ? std::string{'0', type} : "";
  return finish_number(is_negative(value), prefix, integer_digits(value, type), "",
                       type == 'd' ? 3 : 4, spec, budget);
}

std::string format_text(const Value& value, FormatSpec spec, Budget* budget) {
  if (spec.type != '\0' && spec.type != 's') {
    refuse(std::string("unknown format code '") + spec.type + "'", value);
  }
  if (spec.sign != '\0' || spec.alternate || spec.no_negative_zero || spec.grouping != '\0' ||
      spec.align == '=') {
    refuse("a sign, '#', 'z', grouping or '='", value);
  }
  return pad("", std::string(first_code_points(value.text_or_null()->bytes, spec.precision)), spec,
             budget);
}

}  // namespace

int64_t read_count(std::string_view text, size_t* position) {
  int64_t count = -1;
  while (*position < text.size() && text[*position] >= '0' && text[*position] <= '9') {
    count = std::max<int64_t>(count, 0) * 10 + (text[(*position)++] - '0');
    if (count > kMaxTextBytes) {
      throw TemplateError("format: a width or precision makes a text that is too long");
    }
  }
  return count;
}

std::string float_digits(double magnitude, char type, int64_t precision, bool alternate) {
  // No double has more than 1074 digits behind its point: what follows is zeros.
  constexpr int64_t kEnough = 1100;
  const int64_t shown = std::min(precision, kEnough);
  const std::string format = std::string("%") + (alternate ? "#" : "") + ".*" + type;
  std::vector<char> buffer(2048);
  const int length = std::snprintf(buffer.data(), buffer.size(), format.c_str(),
                                   static_cast<int>(shown), magnitude);
  std::string text(buffer.data(), static_cast<size_t>(length));
  const bool strips_zeros = (type == 'g' || type == 'G') && !alternate;
  if (precision > shown && !strips_zeros) {
    const size_t mark = text.find_first_of("eE");
    text.insert(mark == std::string::npos ? text.size() : mark,
                static_cast<size_t>(precision - shown), '0');
  }
  return text;
}

std::string integer_digits(const Value& value, char type) {
  const int base = type == 'b' ? 2 : (type == 'o' ? 8 : (type == 'd' ? 10 : 16));
  std::string digits = value.as_big().to_string(base);
  if (digits[0] == '-') digits.erase(0, 1);
  return type == 'X' ? upper(digits) : digits;
}

bool is_negative(const Value& number) {
  return number.is_float() ? std::signbit(number.as_float()) : number.as_big().negative();
}

std::string format_value(const Value& value, std::string_view spec, Budget* budget) {
  if (spec.empty()) {
    budget->charge_text(value.weight() * kBytesPerStep);
    return to_text(value);
  }
  if (value.is_text()) return format_text(value, parse(spec, value, '<'), budget);
  if (value.is_float()) {
    const FormatSpec parsed = parse(spec, value, '>');
    if (parsed.type != '\0' &&
        std::string_view("eEfFgGn%").find(parsed.type) == std::string_view::npos) {
      refuse(std::string("unknown format code '") + parsed.type + "'", value);
    }
    return format_float(value, parsed, budget);
  }
  if (value.is_number()) return format_integer(value, parse(spec, value, '>'), budget);
  refuse("a format", value);
}

}  // namespace moe4::jinja
