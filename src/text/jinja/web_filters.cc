// Filters for what a web page or a report would show: sizes, addresses, attributes, cut texts.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "text/jinja/filters.h"
#include "text/jinja/format_spec.h"
#include "text/jinja/operators.h"
#include "text/jinja/py_string.h"

namespace moe4::jinja {
namespace {

std::string soft_text(const Value& value, Budget* budget) {
  budget->charge(value.weight());
  return to_text(value);
}

Value filesizeformat_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("filesizeformat", {"binary"});
  require_defined(input);
  std::optional<double> size;
  if (input.is_number()) size = input.as_float();
  if (const Text* text = input.text_or_null()) size = parse_float(text->bytes);
  if (!size) throw TemplateError("filesizeformat needs a number, not " + input.type_name());
  const Value* flag = arguments.find(0, "binary");
  const bool binary = flag != nullptr && flag->truth();
  const double base = binary ? 1024 : 1000;
  if (*size == 1) return Value(std::string("1 Byte"));
  if (*size < base) {
    return Value(to_text(Value::integer(BigInt::truncate(*size))) + " Bytes");
  }
  double unit = base;
  std::string name;
  for (const char prefix : std::string_view("kMGTPEZY")) {
    unit *= base;
    name = binary ? std::string{prefix == 'k' ? 'K' : prefix, 'i', 'B'} : std::string{prefix, 'B'};
    if (*size < unit) break;
  }
  return Value(format_value(Value(base * *size / unit), ".1f", budget) + " " + name);
}

Value forceescape_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("forceescape", {});
  return Value(escape_html(soft_text(input, budget)), true);
}

Value truncate_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("truncate", {"length", "killwords", "end", "leeway"});
  const auto integer = [&](size_t position, const char* name, int64_t otherwise) {
    const Value* value = arguments.find(position, name);
    return value == nullptr || value->is_none() ? otherwise : int_of(*value, name);
  };
  const int64_t length = integer(0, "length", 255);
  const int64_t leeway = integer(3, "leeway", 5);
  const Value* end_value = arguments.find(2, "end");
  const std::string end = end_value == nullptr ? "..." : text_of(*end_value, "truncate's end");
  const int64_t kept = length - count_code_points(end);
  if (kept < 0) throw TemplateError("truncate's length is less than that of its end");
  if (leeway < 0) throw TemplateError("truncate's leeway is negative");
  const std::string text = soft_text(input, budget);
  const int64_t size = count_code_points(text);
  if (size <= length || size - length <= leeway) return Value(text);
  std::string_view head = first_code_points(text, kept);
  const Value* kill = arguments.find(1, "killwords");
  if (kill == nullptr || !kill->truth()) {
    if (const size_t space = head.rfind(' '); space != std::string_view::npos) {
      head = head.substr(0, space);
    }
  }
  return Value(std::string(head) + end);
}

std::string percent_encode(const std::string& text, bool query) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       std::string_view("_.-~").find(c) != std::string_view::npos;
    if (plain || (c == '/' && !query)) {
      out += c;
    } else if (c == ' ' && query) {
      out += '+';
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out += '%';
      out += "0123456789ABCDEF"[byte >> 4];
      out += "0123456789ABCDEF"[byte & 15];
    }
  }
  return out;
}

Value urlencode_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("urlencode", {});
  const bool several = input.list_or_null() != nullptr || input.dict_or_null() != nullptr;
  if (!several) return Value(percent_encode(soft_text(input, budget), false));
  const Value pairs =
      input.dict_or_null() != nullptr ? call_method(input, "items", {}, budget) : input;
  std::string out;
  for (const Value& pair : iterate(pairs, budget)) {
    const auto parts = iterate(pair, budget);
    if (parts.size() != 2) throw TemplateError("urlencode needs pairs");
    if (!out.empty()) out += '&';
    out += percent_encode(soft_text(parts[0], budget), true) + "=" +
           percent_encode(soft_text(parts[1], budget), true);
    budget->charge_text(static_cast<int64_t>(out.size()));
  }
  return Value(std::move(out));
}

Value xmlattr_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("xmlattr", {"autospace"});
  const Dict* dict = input.dict_or_null();
  if (dict == nullptr) throw TemplateError("xmlattr needs a mapping, not " + input.type_name());
  std::string out;
  for (const auto& [key, value] : dict->entries()) {
    if (value.is_none() || value.is_undefined()) continue;
    const std::string name = text_of(key, "xmlattr's key");
    if (name.find_first_of(" \t\n\r\f\v/>=") != std::string::npos) {
      throw TemplateError("xmlattr: a key has a character that a name cannot have");
    }
    if (!out.empty()) out += ' ';
    out += escape_html(name) + "=\"" + escape_html(soft_text(value, budget)) + "\"";
    budget->charge_text(static_cast<int64_t>(out.size()));
  }
  const Value* space = arguments.find(0, "autospace");
  if (!out.empty() && (space == nullptr || space->truth())) out.insert(0, 1, ' ');
  return Value(std::move(out));
}

}  // namespace

Filter find_web_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> kFilters = {
      {"filesizeformat", filesizeformat_filter},
      {"forceescape", forceescape_filter},
      {"truncate", truncate_filter},
      {"urlencode", urlencode_filter},
      {"xmlattr", xmlattr_filter},
  };
  const auto found = kFilters.find(name);
  return found == kFilters.end() ? nullptr : found->second;
}

}  // namespace moe4::jinja
