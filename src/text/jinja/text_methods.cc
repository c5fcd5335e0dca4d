// The methods of str that a template may call.
#include <algorithm>
#include <limits>
#include <optional>

#include "text/jinja/letter_case.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"
#include "text/jinja/py_string.h"
#include "text/jinja/text_format.h"
#include "text/jinja/unicode_properties.h"

namespace moe4::jinja {
namespace {

const std::string& bytes_of(const Value& self) { return self.text_or_null()->bytes; }

std::optional<std::string> optional_text(const Arguments& arguments, size_t position,
                                         const char* name) {
  const Value* value = arguments.find(position, name);
  if (value == nullptr || value->is_none()) return std::nullopt;
  return text_of(*value, name);
}

int64_t optional_int(const Arguments& arguments, size_t position, const char* name,
                     int64_t otherwise) {
  const Value* value = arguments.find(position, name);
  return value == nullptr || value->is_none() ? otherwise : int_of(*value, name);
}

Value texts(std::vector<std::string> parts, bool markup, Budget* budget) {
  budget->charge(static_cast<int64_t>(parts.size()));
  std::vector<Value> items;
  items.reserve(parts.size());
  for (std::string& part : parts) items.emplace_back(std::move(part), markup);
  return Value::list(std::move(items));
}

// What the arguments start and end (of find, count, startswith, ...) leave of a text, by
// characters.
struct Window {
  std::string_view text;
  int64_t begin = 0;  // characters before it
  bool valid = true;  // false: start lies behind the end, and not even '' is found
};

Window window_of(const Value& self, const Arguments& arguments) {
  const std::string& text = bytes_of(self);
  if (arguments.positional.size() < 2) return {text, 0, true};
  const int64_t size = count_code_points(text);
  const auto bound = [&](size_t position, const char* name, int64_t otherwise) {
    const int64_t index = optional_int(arguments, position, name, otherwise);
    return index < 0 ? std::max<int64_t>(index < -size ? 0 : index + size, 0) : index;
  };
  const int64_t begin = bound(1, "start", 0);
  const int64_t end = std::min(bound(2, "end", size), size);
  if (begin > end) return {{}, begin, false};
  const std::string_view tail = std::string_view(text).substr(code_point_offset(text, begin));
  return {first_code_points(tail, end - begin), begin, true};
}

// str.startswith and str.endswith take a string or a tuple of them.
template <bool AtEnd>
Value affix_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("startswith and endswith", {"prefix", "start", "end"});
  const Window window = window_of(self, arguments);
  const auto matches = [&](const Value& affix) {
    const std::string& text = text_of(affix, "prefix");
    return window.valid && (AtEnd ? window.text.ends_with(text) : window.text.starts_with(text));
  };
  const Value& affix = required(arguments, 0, "prefix");
  budget->charge(affix.weight());
  const List* choices = affix.list_or_null();
  if (choices == nullptr) return Value(matches(affix));
  if (!choices->tuple) throw TemplateError("startswith and endswith take a string or a tuple");
  return Value(std::any_of(choices->items.begin(), choices->items.end(), matches));
}

template <bool Left, bool Right>
Value strip_method(const Value& self, const Arguments& arguments, Budget*) {
  arguments.allow("strip", {"chars"});
  return Value(
      std::string(strip(bytes_of(self), optional_text(arguments, 0, "chars"), Left, Right)),
      self.text_or_null()->markup);
}

template <bool FromRight>
Value split_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("split", {"sep", "maxsplit"});
  const auto separator = optional_text(arguments, 0, "sep");
  if (separator && separator->empty()) throw TemplateError("split needs a separator");
  const int64_t limit = optional_int(arguments, 1, "maxsplit", -1);
  auto parts = FromRight ? rsplit(bytes_of(self), separator, limit)
                         : split(bytes_of(self), separator, limit);
  return texts(std::move(parts), self.text_or_null()->markup, budget);
}

Value splitlines_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("splitlines", {"keepends"});
  const Value* keep = arguments.find(0, "keepends");
  return texts(split_lines(bytes_of(self), keep != nullptr && keep->truth()),
               self.text_or_null()->markup, budget);
}

template <bool FromRight>
Value partition_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("partition", {"sep"});
  const std::string& separator = text_of(required(arguments, 0, "sep"), "sep");
  if (separator.empty()) throw TemplateError("partition needs a separator");
  const std::string& text = bytes_of(self);
  const size_t found = FromRight ? rfind_bytes(text, separator) : find_bytes(text, separator);
  budget->charge_text(static_cast<int64_t>(text.size()));
  std::vector<Value> parts;
  if (found == std::string::npos) {
    parts = {self, Value(std::string()), Value(std::string())};
    if (FromRight) std::swap(parts[0], parts[2]);
  } else {
    parts = {Value(text.substr(0, found)), Value(separator),
             Value(text.substr(found + separator.size()))};
  }
  return Value::list(std::move(parts), true);
}

Value replace_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("replace", {"old", "new", "count"});
  const std::string& old = text_of(required(arguments, 0, "old"), "old");
  const std::string& fresh = text_of(required(arguments, 1, "new"), "new");
  const int64_t count = optional_int(arguments, 2, "count", -1);
  const std::string& text = bytes_of(self);
  // A bound on the result before it is made.
  const auto places = static_cast<int64_t>(text.size() / std::max<size_t>(old.size(), 1) + 1);
  int64_t grown = 0;
  if (__builtin_mul_overflow(places, static_cast<int64_t>(fresh.size()), &grown)) {
    grown = kMaxTextBytes;
  }
  if (fresh.size() > old.size() && grown > kMaxTextBytes) {
    // Only now is it worth counting.
    int64_t found = 0;
    for (size_t at = 0; (at = find_bytes(text, old, at)) != std::string::npos && found <= places;
         at += std::max<size_t>(old.size(), 1)) {
      ++found;
    }
    if (count >= 0) found = std::min(found, count);
    if (__builtin_mul_overflow(found, static_cast<int64_t>(fresh.size()), &grown)) {
      grown = kMaxTextBytes + 1;
    }
    budget->charge_text(grown);
  }
  budget->charge_text(static_cast<int64_t>(text.size()));
  return Value(replace(text, old, fresh, count));
}

template <bool FromRight>
Value find_method(const Value& self, const Arguments& arguments, Budget*) {
  arguments.allow("find", {"sub", "start", "end"});
  const std::string& wanted = text_of(required(arguments, 0, "sub"), "sub");
  const Window window = window_of(self, arguments);
  const size_t at = FromRight ? rfind_bytes(window.text, wanted) : find_bytes(window.text, wanted);
  if (at == std::string::npos || !window.valid) return Value(int64_t{-1});
  return Value(window.begin + count_code_points(window.text.substr(0, at)));
}

template <bool FromRight>
Value index_method(const Value& self, const Arguments& arguments, Budget* budget) {
  const Value at = find_method<FromRight>(self, arguments, budget);
  if (at.as_int() < 0) throw TemplateError("index: substring not found");
  return at;
}

Value count_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("count", {"sub", "start", "end"});
  const std::string& wanted = text_of(required(arguments, 0, "sub"), "sub");
  const Window window = window_of(self, arguments);
  if (!window.valid) return Value(int64_t{0});
  if (wanted.empty()) return Value(count_code_points(window.text) + 1);
  const auto parts = split(window.text, wanted, -1);
  budget->charge(static_cast<int64_t>(parts.size()));
  return Value(static_cast<int64_t>(parts.size()) - 1);
}

Value join_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("join", {"iterable"});
  std::string out;
  bool first = true;
  for (const Value& item : iterate(required(arguments, 0, "iterable"), budget)) {
    const std::string& part = text_of(item, "an item to join");
    budget->charge_text(static_cast<int64_t>(part.size() + bytes_of(self).size()));
    if (!first) out += bytes_of(self);
    first = false;
    out += part;
    if (static_cast<int64_t>(out.size()) > kMaxTextBytes) budget->charge_text(kMaxTextBytes + 1);
  }
  return Value(std::move(out));
}

template <std::string (*Function)(std::string_view)>
Value map_method(const Value& self, const Arguments& arguments, Budget*) {
  arguments.allow("the method", {});
  return Value(Function(bytes_of(self)), self.text_or_null()->markup);
}

template <bool (*Predicate)(char32_t)>
Value class_method(const Value& self, const Arguments& arguments, Budget*) {
  arguments.allow("the method", {});
  return Value(all_of(bytes_of(self), Predicate));
}

// isascii and isprintable also hold for the empty text.
template <bool (*Predicate)(char32_t)>
Value class_or_empty_method(const Value& self, const Arguments& arguments, Budget*) {
  arguments.allow("the method", {});
  return Value(bytes_of(self).empty() || all_of(bytes_of(self), Predicate));
}

bool is_ascii(char32_t c) { return c < 0x80; }

template <bool (*Predicate)(std::string_view)>
Value predicate_method(const Value& self, const Arguments& arguments, Budget*) {
  arguments.allow("the method", {});
  return Value(Predicate(bytes_of(self)));
}

template <bool AtEnd>
Value remove_affix_method(const Value& self, const Arguments& arguments, Budget*) {
  arguments.allow("removeprefix and removesuffix", {"affix"});
  const std::string& affix = text_of(required(arguments, 0, "affix"), "affix");
  const std::string& text = bytes_of(self);
  if (affix.empty() || !(AtEnd ? text.ends_with(affix) : text.starts_with(affix))) return self;
  return Value(AtEnd ? text.substr(0, text.size() - affix.size()) : text.substr(affix.size()));
}

enum class Side { kLeft, kRight, kBoth };
template <Side Padded>
Value pad_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("center and just", {"width", "fillchar"});
  const int64_t width = int_of(required(arguments, 0, "width"), "width");
  const std::string fill = optional_text(arguments, 1, "fillchar").value_or(" ");
  if (count_code_points(fill) != 1) throw TemplateError("fillchar must be one character");
  const int64_t missing = width - count_code_points(bytes_of(self));
  if (missing <= 0) return self;
  budget->charge_text(std::min(missing, kMaxTextBytes) * static_cast<int64_t>(fill.size()) +
                      (missing > kMaxTextBytes ? kMaxTextBytes : 0));
  // CPython's choice of the longer side.
  const int64_t left = Padded == Side::kLeft    ? missing
                       : Padded == Side::kRight ? 0
                                                : missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += bytes_of(self);
  for (int64_t i = left; i < missing; ++i) out += fill;
  return Value(std::move(out));
}

Value zfill_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("zfill", {"width"});
  const std::string& text = bytes_of(self);
  const int64_t missing =
      int_of(required(arguments, 0, "width"), "width") - count_code_points(text);
  if (missing <= 0) return self;
  budget->charge_text(missing);
  std::string out = text;
  const bool sign = text.starts_with('-') || text.starts_with('+');
  out.insert(sign ? 1 : 0, static_cast<size_t>(missing), '0');
  return Value(std::move(out));
}

Value expandtabs_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("expandtabs", {"tabsize"});
  const int64_t size = optional_int(arguments, 0, "tabsize", 8);
  std::string out;
  int64_t column = 0;
  for (const std::string_view character : code_points(bytes_of(self))) {
    if (character == "\t") {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      budget->charge_text(spaces);
      out.append(static_cast<size_t>(spaces), ' ');
      column += spaces;
      if (static_cast<int64_t>(out.size()) > kMaxTextBytes) budget->charge_text(kMaxTextBytes + 1);
      continue;
    }
    out += character;
    column = character == "\n" || character == "\r" ? 0 : column + 1;
  }
  return Value(std::move(out));
}

const std::string& format_of(const Value& self) {
  if (self.text_or_null()->markup) {
    throw TemplateError("formatting a text marked safe is not supported");
  }
  return bytes_of(self);
}

Value format_method(const Value& self, const Arguments& arguments, Budget* budget) {
  return Value(format_braces(format_of(self), arguments, budget));
}

Value format_map_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("format_map", {"mapping"});
  const Value& mapping = required(arguments, 0, "mapping");
  const Dict* dict = mapping.dict_or_null();
  if (dict == nullptr) throw TemplateError("format_map needs a mapping");
  Arguments named;
  for (const auto& [key, value] : dict->entries()) {
    budget->charge();
    if (const Text* name = key.text_or_null()) named.named.emplace_back(name->bytes, value);
  }
  return Value(format_braces(format_of(self), named, budget));
}

Value bytes_method(const Value&, const Arguments&, Budget*) {
  throw TemplateError("str.encode, isidentifier, maketrans and translate are not supported");
}

}  // namespace

const MethodTable& text_methods() {
  static const MethodTable kText = {
      {"startswith", affix_method<false>},
      {"endswith", affix_method<true>},
      {"strip", strip_method<true, true>},
      {"lstrip", strip_method<true, false>},
      {"rstrip", strip_method<false, true>},
      {"split", split_method<false>},
      {"rsplit", split_method<true>},
      {"splitlines", splitlines_method},
      {"partition", partition_method<false>},
      {"rpartition", partition_method<true>},
      {"replace", replace_method},
      {"find", find_method<false>},
      {"rfind", find_method<true>},
      {"index", index_method<false>},
      {"rindex", index_method<true>},
      {"count", count_method},
      {"join", join_method},
      {"format", format_method},
      {"format_map", format_map_method},
      {"upper", map_method<upper>},
      {"lower", map_method<lower>},
      {"capitalize", map_method<capitalize>},
      {"title", map_method<title>},
      {"swapcase", map_method<swap_case>},
      {"casefold", map_method<fold_case>},
      {"isalnum", class_method<is_alphanumeric>},
      {"isalpha", class_method<is_letter>},
      {"isascii", class_or_empty_method<is_ascii>},
      {"isdecimal", class_method<is_decimal>},
      {"isdigit", class_method<is_digit>},
      {"isnumeric", class_method<is_numeric>},
      {"isprintable", class_or_empty_method<is_printable>},
      {"isspace", class_method<is_space>},
      {"isupper", predicate_method<is_upper>},
      {"islower", predicate_method<is_lower>},
      {"istitle", predicate_method<is_title>},
      {"removeprefix", remove_affix_method<false>},
      {"removesuffix", remove_affix_method<true>},
      {"ljust", pad_method<Side::kRight>},
      {"rjust", pad_method<Side::kLeft>},
      {"center", pad_method<Side::kBoth>},
      {"zfill", zfill_method},
      {"expandtabs", expandtabs_method},
      {"encode", bytes_method},
      {"isidentifier", bytes_method},
      {"maketrans", bytes_method},
      {"translate", bytes_method},
  };
  return kText;
}

}  // namespace moe4::jinja
