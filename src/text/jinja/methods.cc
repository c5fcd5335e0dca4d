// Attributes, and the methods of str, dict and list that a template may call.
#include <algorithm>
#include <limits>
#include <unordered_map>

#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/py_string.h"

namespace moe4::jinja {
namespace {

using Method = Value (*)(const Value& self, const Arguments& arguments, Budget* budget);

const std::string& bytes_of(const Value& self) { return self.text_or_null()->bytes; }

const Value& required(const Arguments& arguments, size_t position, const char* name) {
  const Value* value = arguments.find(position, name);
  if (value == nullptr) throw TemplateError(std::string("argument ") + name + " is missing");
  return *value;
}

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

// str.startswith and str.endswith take a string or a tuple of them.
template <bool AtEnd>
Value affix_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("startswith and endswith", {"prefix"});
  const auto matches = [&](const Value& affix) {
    const std::string& text = text_of(affix, "prefix");
    return AtEnd ? bytes_of(self).ends_with(text) : bytes_of(self).starts_with(text);
  };
  const Value& affix = required(arguments, 0, "prefix");
  budget->charge(affix.weight());
  const List* choices = affix.list_or_null();
  if (choices == nullptr) return Value(matches(affix));
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

Value find_method(const Value& self, const Arguments& arguments, Budget*) {
  arguments.allow("find", {"sub"});
  const size_t at = find_bytes(bytes_of(self), text_of(required(arguments, 0, "sub"), "sub"));
  if (at == std::string::npos) return Value(int64_t{-1});
  return Value(count_code_points(std::string_view(bytes_of(self)).substr(0, at)));
}

Value rfind_method(const Value& self, const Arguments& arguments, Budget*) {
  arguments.allow("rfind", {"sub"});
  const size_t at = rfind_bytes(bytes_of(self), text_of(required(arguments, 0, "sub"), "sub"));
  if (at == std::string::npos) return Value(int64_t{-1});
  return Value(count_code_points(std::string_view(bytes_of(self)).substr(0, at)));
}

Value index_method(const Value& self, const Arguments& arguments, Budget* budget) {
  const Value at = find_method(self, arguments, budget);
  if (at.as_int() < 0) throw TemplateError("index: substring not found");
  return at;
}

Value count_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("count", {"sub"});
  const std::string& wanted = text_of(required(arguments, 0, "sub"), "sub");
  if (wanted.empty()) return Value(count_code_points(bytes_of(self)) + 1);
  const auto parts = split(bytes_of(self), wanted, -1);
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

template <CharacterClass Wanted>
Value class_method(const Value& self, const Arguments& arguments, Budget*) {
  arguments.allow("the method", {});
  return Value(all_of_class(bytes_of(self), Wanted));
}

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

Value get_method(const Value& self, const Arguments& arguments, Budget*) {
  arguments.allow("get", {"key", "default"});
  const Value* found = self.dict_or_null()->find(required(arguments, 0, "key"));
  if (found != nullptr) return *found;
  const Value* otherwise = arguments.find(1, "default");
  return otherwise == nullptr ? Value() : *otherwise;
}

enum class Part { kKeys, kValues, kItems };
template <Part Wanted>
Value entries_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("the method", {});
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict_or_null()->entries()) {
    budget->charge();
    if (Wanted == Part::kItems) {
      items.push_back(Value::list({key, value}, true));
    } else {
      items.push_back(Wanted == Part::kKeys ? key : value);
    }
  }
  return Value::list(std::move(items));
}

Value copy_method(const Value& self, const Arguments& arguments, Budget*) {
  arguments.allow("copy", {});
  return self;
}

Value list_index_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("index", {"value"});
  const Value& wanted = required(arguments, 0, "value");
  const auto& items = self.list_or_null()->items;
  for (size_t i = 0; i < items.size(); ++i) {
    if (apply(Comparison::kEqual, items[i], wanted, budget)) return Value(static_cast<int64_t>(i));
  }
  throw TemplateError("index: value is not in the list");
}

Value list_count_method(const Value& self, const Arguments& arguments, Budget* budget) {
  arguments.allow("count", {"value"});
  const Value& wanted = required(arguments, 0, "value");
  const auto& items = self.list_or_null()->items;
  return Value(static_cast<int64_t>(std::count_if(items.begin(), items.end(), [&](const Value& v) {
    return apply(Comparison::kEqual, v, wanted, budget);
  })));
}

Value changing_method(const Value& self, const Arguments&, Budget*) {
  throw TemplateError("a method that changes a " + self.type_name() +
                      " cannot be called from a template");
}

Value cycle_method(const Value& self, const Arguments& arguments, Budget*) {
  if (arguments.positional.empty()) throw TemplateError("loop.cycle needs values");
  return arguments.positional[self.loop_or_null()->index % arguments.positional.size()];
}

using MethodTable = std::unordered_map<std::string_view, Method>;

const MethodTable& methods_of(const Value& self) {
  static const MethodTable kNone;
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
      {"find", find_method},
      {"rfind", rfind_method},
      {"index", index_method},
      {"count", count_method},
      {"join", join_method},
      {"upper", map_method<upper>},
      {"lower", map_method<lower>},
      {"capitalize", map_method<capitalize>},
      {"title", map_method<title>},
      {"isdigit", class_method<CharacterClass::kDigit>},
      {"isalpha", class_method<CharacterClass::kAlpha>},
      {"isalnum", class_method<CharacterClass::kAlnum>},
      {"isspace", class_method<CharacterClass::kSpace>},
      {"isupper", predicate_method<is_upper>},
      {"islower", predicate_method<is_lower>},
      {"removeprefix", remove_affix_method<false>},
      {"removesuffix", remove_affix_method<true>},
      {"ljust", pad_method<Side::kRight>},
      {"rjust", pad_method<Side::kLeft>},
      {"center", pad_method<Side::kBoth>},
  };
  static const MethodTable kDict = {
      {"get", get_method},
      {"keys", entries_method<Part::kKeys>},
      {"values", entries_method<Part::kValues>},
      {"items", entries_method<Part::kItems>},
      {"copy", copy_method},
      {"clear", changing_method},
      {"pop", changing_method},
      {"popitem", changing_method},
      {"setdefault", changing_method},
      {"update", changing_method},
  };
  static const MethodTable kList = {
      {"index", list_index_method}, {"count", list_count_method}, {"copy", copy_method},
      {"append", changing_method},  {"extend", changing_method},  {"insert", changing_method},
      {"pop", changing_method},     {"remove", changing_method},  {"reverse", changing_method},
      {"sort", changing_method},    {"clear", changing_method},
  };
  static const MethodTable kLoop = {{"cycle", cycle_method}};
  if (self.is_text()) return kText;
  if (self.dict_or_null() != nullptr) return kDict;
  if (self.list_or_null() != nullptr) return kList;
  return self.loop_or_null() != nullptr ? kLoop : kNone;
}

Value loop_attribute(const LoopState& loop, const std::string& name) {
  const auto index = static_cast<int64_t>(loop.index);
  const auto size = static_cast<int64_t>(loop.items.size());
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "revindex") return Value(size - index);
  if (name == "revindex0") return Value(size - index - 1);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(index + 1 == size);
  if (name == "length") return Value(size);
  if (name == "depth") return Value(loop.depth0 + 1);
  if (name == "depth0") return Value(loop.depth0);
  if (name == "previtem" && index > 0) return loop.items[loop.index - 1];
  if (name == "nextitem" && index + 1 < size) return loop.items[loop.index + 1];
  if (name == "changed") throw TemplateError("loop.changed is not supported");
  return Value::undefined("loop." + name);
}

}  // namespace

Value get_attribute(const Value& value, const std::string& name) {
  require_defined(value);
  if (const Dict* dict = value.dict_or_null()) {
    if (const Value* found = dict->find(name)) return *found;
  } else if (const Namespace* space = value.namespace_or_null()) {
    for (const auto& [attribute, held] : space->attributes) {
      if (attribute == name) return held;
    }
  } else if (const LoopState* loop = value.loop_or_null()) {
    return loop_attribute(*loop, name);
  }
  return Value::undefined(value.type_name() + " object." + name);
}

bool has_method(const Value& self, std::string_view name) {
  return methods_of(self).contains(name);
}

Value call_method(const Value& self, const std::string& name, const Arguments& arguments,
                  Budget* budget) {
  const MethodTable& methods = methods_of(self);
  const auto found = methods.find(name);
  if (found == methods.end()) {
    throw TemplateError("method " + self.type_name() + "." + name + " is not supported");
  }
  if (self.is_text()) budget->charge(self.weight());
  return found->second(self, arguments, budget);
}

}  // namespace moe4::jinja
