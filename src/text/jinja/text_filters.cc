// Filters that take one string, number or any value.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <unordered_map>

#include "text/jinja/filters.h"
#include "text/jinja/json.h"
#include "text/jinja/letter_case.h"
#include "text/jinja/operators.h"
#include "text/jinja/py_string.h"
#include "text/jinja/text_format.h"
#include "text/jinja/unicode_properties.h"
#include "text/utf8.h"

namespace moe4::jinja {
namespace {

// soft_str: the string itself, or str() of anything else.
std::string soft_text(const Value& value, Budget* budget) {
  budget->charge(value.weight());
  return to_text(value);
}

bool is_markup(const Value& value) { return value.is_text() && value.text_or_null()->markup; }

bool flag(const Arguments& arguments, size_t position, std::string_view name) {
  const Value* value = arguments.find(position, name);
  return value != nullptr && value->truth();
}

Value upper_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("upper", {});
  return Value(upper(soft_text(input, budget)), is_markup(input));
}

Value lower_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("lower", {});
  return Value(lower(soft_text(input, budget)), is_markup(input));
}

Value capitalize_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("capitalize", {});
  return Value(capitalize(soft_text(input, budget)), is_markup(input));
}

// Words begin after white space, hyphens and opening brackets; their first letter is upper case and
// not title case.
Value title_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("title", {});
  const std::string text = soft_text(input, budget);
  std::string out;
  const auto part = [&](std::string_view word) {
    const size_t first = code_point_offset(word, 1);
    out += upper(word.substr(0, first)) + lower(word.substr(first));
  };
  size_t begin = 0;
  bool between = false;  // [begin, position) is between words
  for (size_t position = 0; position < text.size();) {
    const size_t here = position;
    const char32_t c = next_code_point(text, &position);
    const bool breaks =
        is_space(c) ||
        (c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) != std::string::npos);
    if (breaks != between) part(std::string_view(text).substr(begin, here - begin));
    if (breaks != between) begin = here;
    between = breaks;
  }
  part(std::string_view(text).substr(begin));
  return Value(std::move(out), is_markup(input));
}

Value format_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  if (!arguments.named.empty() && !arguments.positional.empty()) {
    throw TemplateError("format takes positional or named arguments, not both");
  }
  if (is_markup(input)) throw TemplateError("formatting a text marked safe is not supported");
  Dict named;
  for (const auto& [name, value] : arguments.named) named.set(Value(name), value);
  return Value(format_percent(soft_text(input, budget),
                              arguments.named.empty() ? Value::list(arguments.positional, true)
                                                      : Value::dict(std::move(named)),
                              budget));
}

Value trim_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("trim", {"chars"});
  const Value* characters = arguments.find(0, "chars");
  std::optional<std::string> set;
  if (characters != nullptr && !characters->is_none()) set = text_of(*characters, "trim's chars");
  const std::string text = soft_text(input, budget);
  return Value(std::string(strip(text, set, true, true)), is_markup(input));
}

Value string_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("string", {});
  return input.is_text() ? input : Value(soft_text(input, budget));
}

Value safe_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("safe", {});
  return Value(soft_text(input, budget), true);
}

Value escape_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("escape", {});
  if (is_markup(input)) return input;
  return Value(escape_html(soft_text(input, budget)), true);
}

Value replace_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("replace", {"old", "new", "count"});
  const Value* old = arguments.find(0, "old");
  const Value* fresh = arguments.find(1, "new");
  if (old == nullptr || fresh == nullptr) throw TemplateError("replace needs old and new");
  const Value* count = arguments.find(2, "count");
  const int64_t limit = count == nullptr || count->is_none() ? -1 : int_of(*count, "count");
  return call_method(Value(soft_text(input, budget)), "replace",
                     {{Value(to_text(*old)), Value(to_text(*fresh)), Value(limit)}, {}}, budget);
}

Value indent_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("indent", {"width", "first", "blank"});
  std::string indentation = "    ";
  if (const Value* width = arguments.find(0, "width")) {
    if (width->is_text()) {
      indentation = width->text_or_null()->bytes;
    } else {
      const int64_t columns = std::max<int64_t>(int_of(*width, "indent's width"), 0);
      budget->charge_text(columns);
      indentation.assign(static_cast<size_t>(columns), ' ');
    }
  }
  const bool blank = flag(arguments, 2, "blank");
  const auto lines = split_lines(soft_text(input, budget) + "\n", false);
  budget->charge_text(static_cast<int64_t>(lines.size() * (indentation.size() + 1)) +
                      input.weight() * kBytesPerStep);
  std::string out = flag(arguments, 1, "first") ? indentation : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += indentation;
    out += lines[i];
  }
  return Value(std::move(out), is_markup(input));
}

Value center_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("center", {"width"});
  const Value* width = arguments.find(0, "width");
  return call_method(Value(soft_text(input, budget)), "center",
                     {{width == nullptr ? Value(int64_t{80}) : *width}, {}}, budget);
}

Value wordcount_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("wordcount", {});
  const std::string text = soft_text(input, budget);
  int64_t words = 0;
  bool inside = false;
  for (const std::string_view character : code_points(text)) {
    const bool word = character == "_" || all_of(character, is_alphanumeric);
    words += word && !inside ? 1 : 0;
    inside = word;
  }
  return Value(words);
}

Value length_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("length", {});
  if (input.is_text()) budget->charge(input.weight());
  return Value(length(input));
}

Value default_filter(const Value& input, const Arguments& arguments, Budget*) {
  arguments.allow("default", {"default_value", "boolean"});
  if (!input.is_undefined() && (!flag(arguments, 1, "boolean") || input.truth())) return input;
  const Value* otherwise = arguments.find(0, "default_value");
  return otherwise == nullptr ? Value(std::string()) : *otherwise;
}

Value abs_filter(const Value& input, const Arguments& arguments, Budget*) {
  arguments.allow("abs", {});
  require_defined(input);
  if (input.is_float()) return Value(std::fabs(input.as_float()));
  if (!input.is_number()) throw TemplateError("abs needs a number, not " + input.type_name());
  return input.as_big().negative() ? negate(input) : Value::integer(input.as_big());
}

std::optional<BigInt> parse_int(const std::string& text, int base) {
  std::string trimmed(strip(text, std::nullopt, true, true));
  const bool negative = trimmed.starts_with('-');
  if (negative || trimmed.starts_with('+')) trimmed.erase(0, 1);
  const std::string prefix = trimmed.substr(0, 2);
  const bool has_prefix = (base == 16 && (prefix == "0x" || prefix == "0X")) ||
                          (base == 8 && (prefix == "0o" || prefix == "0O")) ||
                          (base == 2 && (prefix == "0b" || prefix == "0B"));
  if (has_prefix) trimmed.erase(0, 2);
  // Underscores may stand between digits.
  const bool misplaced =
      trimmed.starts_with('_') || trimmed.ends_with('_') || trimmed.find("__") != std::string::npos;
  trimmed.erase(std::remove(trimmed.begin(), trimmed.end(), '_'), trimmed.end());
  if (misplaced) return std::nullopt;
  const auto number = BigInt::parse(trimmed, base);
  return number && negative ? number->negated() : number;
}

Value int_filter(const Value& input, const Arguments& arguments, Budget*) {
  arguments.allow("int", {"default", "base"});
  require_defined(input);
  const Value* otherwise = arguments.find(0, "default");
  const Value* base_value = arguments.find(1, "base");
  const int64_t base = base_value == nullptr ? 10 : int_of(*base_value, "int's base");
  if (base < 2 || base > 36) throw TemplateError("int's base must be between 2 and 36");
  if (input.is_number() && !input.is_float()) return Value::integer(input.as_big());
  std::optional<double> number;
  if (const Text* text = input.text_or_null()) {
    if (const auto whole = parse_int(text->bytes, static_cast<int>(base))) {
      return Value::integer(*whole);
    }
    number = parse_float(text->bytes);
  } else if (input.is_float()) {
    number = input.as_float();
  }
  if (number && std::isfinite(*number)) return Value::integer(BigInt::truncate(*number));
  return otherwise == nullptr ? Value(int64_t{0}) : *otherwise;
}

Value float_filter(const Value& input, const Arguments& arguments, Budget*) {
  arguments.allow("float", {"default"});
  require_defined(input);
  if (input.is_number()) return Value(input.as_float());
  if (const Text* text = input.text_or_null()) {
    if (const auto number = parse_float(text->bytes)) return Value(*number);
  }
  const Value* otherwise = arguments.find(0, "default");
  return otherwise == nullptr ? Value(0.0) : *otherwise;
}

Value round_filter(const Value& input, const Arguments& arguments, Budget*) {
  arguments.allow("round", {"precision", "method"});
  require_defined(input);
  if (!input.is_number()) throw TemplateError("round needs a number, not " + input.type_name());
  const Value* precision_value = arguments.find(0, "precision");
  const int64_t precision =
      precision_value == nullptr ? 0 : int_of(*precision_value, "round's precision");
  const Value* method_value = arguments.find(1, "method");
  const std::string method =
      method_value == nullptr ? "common" : text_of(*method_value, "round's method");
  if (precision < 0 || precision > 100) throw TemplateError("round's precision is out of range");
  if (method == "common") {
    if (!input.is_float()) return input;
    // printf rounds the exact binary value to nearest, ties to even, as Python does.
    char buffer[512];
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(precision), input.as_float());
    return Value(parse_float(buffer).value_or(input.as_float()));
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = input.as_float() * scale;
  if (method == "ceil") return Value(std::ceil(scaled) / scale);
  if (method == "floor") return Value(std::floor(scaled) / scale);
  throw TemplateError("round's method must be common, ceil or floor");
}

Value tojson_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = flag(arguments, 0, "ensure_ascii");
  style.sort_keys = flag(arguments, 3, "sort_keys");
  const Value* indent = arguments.find(1, "indent");
  if (indent != nullptr && !indent->is_none()) {
    style.item_separator.assign(1, ',');
    if (indent->is_text()) {
      style.indent = indent->text_or_null()->bytes;
    } else {
      const int64_t columns = std::clamp<int64_t>(int_of(*indent, "tojson's indent"), 0, 1000);
      style.indent = std::string(static_cast<size_t>(columns), ' ');
    }
  }
  const Value* separators = arguments.find(2, "separators");
  if (separators != nullptr && !separators->is_none()) {
    const List* pair = separators->list_or_null();
    if (pair == nullptr || pair->items.size() != 2) {
      throw TemplateError("tojson's separators must be two strings");
    }
    style.item_separator = text_of(pair->items[0], "tojson's separator");
    style.key_separator = text_of(pair->items[1], "tojson's separator");
  }
  return Value(to_json(input, style, budget));
}

}  // namespace

std::optional<double> parse_float(const std::string& text) {
  const std::string trimmed(strip(text, std::nullopt, true, true));
  const bool plus = trimmed.starts_with('+') && !trimmed.starts_with("+-");
  const char* end = trimmed.data() + trimmed.size();
  double number = 0;
  const auto read = std::from_chars(trimmed.data() + (plus ? 1 : 0), end, number);
  if (read.ec != std::errc() || read.ptr != end) return std::nullopt;
  return number;
}

Filter find_text_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> kFilters = {
      {"abs", abs_filter},
      {"capitalize", capitalize_filter},
      {"center", center_filter},
      {"count", length_filter},
      {"d", default_filter},
      {"default", default_filter},
      {"e", escape_filter},
      {"escape", escape_filter},
      {"float", float_filter},
      {"format", format_filter},
      {"indent", indent_filter},
      {"int", int_filter},
      {"length", length_filter},
      {"lower", lower_filter},
      {"replace", replace_filter},
      {"round", round_filter},
      {"safe", safe_filter},
      {"string", string_filter},
      {"title", title_filter},
      {"tojson", tojson_filter},
      {"trim", trim_filter},
      {"upper", upper_filter},
      {"wordcount", wordcount_filter},
  };
  const auto found = kFilters.find(name);
  return found == kFilters.end() ? nullptr : found->second;
}

}  // namespace moe4::jinja
