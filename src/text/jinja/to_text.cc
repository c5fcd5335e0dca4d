// Python's str() and repr() of template values.
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "text/jinja/py_string.h"
#include "text/jinja/value.h"

namespace moe4::jinja {

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  // Shortest digits as d.ddde[+-]xx, then laid out as Python does.
  std::array<char, 64> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::scientific);
  std::string text(buffer.data(), end.ptr);
  const size_t mark = text.find('e');
  const int exponent = std::atoi(text.c_str() + mark + 1);
  if (exponent < -4 || exponent >= 16) return text;
  const bool negative = text[0] == '-';
  std::string digits;
  for (size_t i = 0; i < mark; ++i) {
    if (text[i] != '.' && text[i] != '-') digits += text[i];
  }
  std::string out;
  if (exponent < 0) {
    out = "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else {
    const auto whole = static_cast<size_t>(exponent) + 1;
    if (digits.size() <= whole) digits.append(whole + 1 - digits.size(), '0');
    out = digits.substr(0, whole) + "." + digits.substr(whole);
  }
  if (negative) out.insert(out.begin(), '-');
  return out;
}

std::string to_repr(const Value& value) {
  if (const Text* text = value.text_or_null()) {
    return text->markup ? "Markup(" + repr(text->bytes) + ")" : repr(text->bytes);
  }
  if (const List* list = value.list_or_null()) {
    if (list->lazy == Lazy::kRange && !list->label.empty()) return list->label;
    if (list->lazy == Lazy::kRange || list->lazy == Lazy::kGenerator) {
      throw TemplateError("a " + value.type_name() + " cannot be printed; list makes a list of it");
    }
    if (list->lazy == Lazy::kView)
      return list->label + "(" + to_repr(Value::list(list->items)) + ")";
    std::string out(1, list->tuple ? '(' : '[');
    for (const Value& item : list->items) {
      if (out.size() > 1) out += ", ";
      out += to_repr(item);
    }
    if (list->tuple && list->items.size() == 1) out += ',';
    return out += list->tuple ? ')' : ']';
  }
  if (const Dict* dict = value.dict_or_null()) {
    std::string out = "{";
    for (const auto& [key, item] : dict->entries()) {
      if (out.size() > 1) out += ", ";
      out += to_repr(key) + ": " + to_repr(item);
    }
    return out += "}";
  }
  if (value.is_undefined()) return "Undefined";
  return to_text(value);
}

std::string to_text(const Value& value) {
  if (value.is_undefined()) return "";
  if (value.is_none()) return "None";
  if (value.is_bool()) return value.as_bool() ? "True" : "False";
  if (value.is_int()) return std::to_string(value.as_int());
  if (value.is_big()) return value.as_big().to_string();
  if (value.is_float()) return float_repr(value.as_float());
  if (const Text* text = value.text_or_null()) return text->bytes;
  if (value.list_or_null() != nullptr || value.dict_or_null() != nullptr) return to_repr(value);
  std::string out(1, '<');
  return out.append(value.type_name()) += '>';
}

}  // namespace moe4::jinja
