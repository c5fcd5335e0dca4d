// Filters that take lists and dicts. What jinja2 makes a generator is computed at once, but behaves
// like one: it is true, has no length, and can be walked once.
#include <algorithm>
#include <cctype>
#include <unordered_map>

#include "text/jinja/filters.h"
#include "text/jinja/letter_case.h"
#include "text/jinja/operators.h"
#include "text/jinja/py_string.h"
#include "text/jinja/unicode_properties.h"

namespace moe4::jinja {
namespace {

bool flag(const Arguments& arguments, size_t position, std::string_view name) {
  const Value* value = arguments.find(position, name);
  return value != nullptr && value->truth();
}

const Value* given(const Arguments& arguments, size_t position, std::string_view name) {
  const Value* value = arguments.find(position, name);
  return value == nullptr || value->is_none() ? nullptr : value;
}

// "a.b.0": attributes of attributes; numbers are indices.
Value follow(const Value& value, const Value& path) {
  if (path.is_int()) return get_item(value, path);
  Value result = value;
  for (const std::string& part : split(text_of(path, "attribute"), ".", -1)) {
    require_defined(result);
    const bool number = all_of(part, is_decimal) && part.size() < 10 &&
                        std::isdigit(static_cast<unsigned char>(part[0])) != 0;
    result = number ? get_item(result, Value(static_cast<int64_t>(std::stoll(part))))
                    : get_attribute(result, part);
  }
  return result;
}

// What sort, unique, min and max look at.
Value sort_key(const Value& item, const Value* attribute, bool case_sensitive) {
  const Value key = attribute == nullptr ? item : follow(item, *attribute);
  if (case_sensitive || !key.is_text()) return key;
  return Value(lower(key.text_or_null()->bytes));
}

struct Keyed {
  Value key;
  Value item;
};

std::vector<Keyed> with_keys(const Value& input, const Value* attribute, bool case_sensitive,
                             Budget* budget) {
  std::vector<Keyed> keyed;
  for (Value& item : iterate(input, budget)) {
    Value key = sort_key(item, attribute, case_sensitive);
    budget->charge(key.weight());
    keyed.push_back({std::move(key), std::move(item)});
  }
  return keyed;
}

void sort_keyed(std::vector<Keyed>* keyed, bool reverse, Budget* budget) {
  std::stable_sort(keyed->begin(), keyed->end(), [&](const Keyed& a, const Keyed& b) {
    budget->charge(std::min(a.key.weight(), b.key.weight()));
    return reverse ? compare(b.key, a.key) < 0 : compare(a.key, b.key) < 0;
  });
}

Value list_of(std::vector<Keyed> keyed) {
  std::vector<Value> items;
  for (Keyed& entry : keyed) items.push_back(std::move(entry.item));
  return Value::list(std::move(items));
}

Value generated(std::vector<Value> items) {
  return Value::lazy(std::move(items), Lazy::kGenerator);
}

Value list_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("list", {});
  return Value::list(iterate(input, budget));
}

Value first_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("first", {});
  const List* list = input.list_or_null();
  if (list != nullptr && list->used < list->items.size()) {
    const Value& item = list->items[list->used];
    list->used += list->lazy == Lazy::kGenerator ? 1 : 0;
    return item;
  }
  const auto items = iterate(input, budget);
  return items.empty() ? Value::undefined("first item of nothing") : items.front();
}

Value last_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("last", {});
  const List* list = input.list_or_null();
  if (list != nullptr && list->lazy == Lazy::kGenerator) {
    throw TemplateError("a generator cannot be read from its end; list makes a list of it");
  }
  const auto items = iterate(input, budget);
  return items.empty() ? Value::undefined("last item of nothing") : items.back();
}

Value reverse_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("reverse", {});
  if (input.is_text()) {
    return get_slice(input, Value(), Value(), Value(int64_t{-1}), budget);
  }
  const List* list = input.list_or_null();
  const bool generator = list != nullptr && list->lazy == Lazy::kGenerator;
  auto items = iterate(input, budget);
  std::reverse(items.begin(), items.end());
  return generator ? Value::list(std::move(items)) : generated(std::move(items));
}

Value join_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("join", {"d", "attribute"});
  const Value* separator_value = arguments.find(0, "d");
  const std::string separator = separator_value == nullptr ? "" : to_text(*separator_value);
  const Value* attribute = given(arguments, 1, "attribute");
  std::string out;
  bool first = true;
  for (const Value& item : iterate(input, budget)) {
    const Value part = attribute == nullptr ? item : follow(item, *attribute);
    budget->charge(part.weight());
    if (!first) out += separator;
    first = false;
    out += to_text(part);
    if (static_cast<int64_t>(out.size()) > kMaxTextBytes) budget->charge_text(kMaxTextBytes + 1);
  }
  budget->charge_text(static_cast<int64_t>(out.size()));
  return Value(std::move(out));
}

Value items_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("items", {});
  if (input.is_undefined()) return generated({});
  if (input.dict_or_null() == nullptr) {
    throw TemplateError("items needs a mapping, not " + input.type_name());
  }
  return generated(iterate(call_method(input, "items", {}, budget), budget));
}

Value dictsort_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("dictsort", {"case_sensitive", "by", "reverse"});
  if (input.dict_or_null() == nullptr) {
    require_defined(input);
    throw TemplateError("dictsort needs a mapping, not " + input.type_name());
  }
  const Value* by = arguments.find(1, "by");
  const std::string which = by == nullptr ? "key" : text_of(*by, "dictsort's by");
  if (which != "key" && which != "value") throw TemplateError("dictsort's by is key or value");
  const Value position(int64_t{which == "key" ? 0 : 1});
  auto keyed = with_keys(call_method(input, "items", {}, budget), &position,
                         flag(arguments, 0, "case_sensitive"), budget);
  sort_keyed(&keyed, flag(arguments, 2, "reverse"), budget);
  return list_of(std::move(keyed));
}

Value sort_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("sort", {"reverse", "case_sensitive", "attribute"});
  auto keyed = with_keys(input, given(arguments, 2, "attribute"),
                         flag(arguments, 1, "case_sensitive"), budget);
  sort_keyed(&keyed, flag(arguments, 0, "reverse"), budget);
  return list_of(std::move(keyed));
}

Value unique_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("unique", {"case_sensitive", "attribute"});
  std::vector<Keyed> kept;
  for (Keyed& entry : with_keys(input, given(arguments, 1, "attribute"),
                                flag(arguments, 0, "case_sensitive"), budget)) {
    const bool seen = std::any_of(kept.begin(), kept.end(), [&](const Keyed& other) {
      budget->charge(std::min(other.key.weight(), entry.key.weight()));
      return equal(other.key, entry.key);
    });
    if (!seen) kept.push_back(std::move(entry));
  }
  std::vector<Value> items;
  for (Keyed& entry : kept) items.push_back(std::move(entry.item));
  return generated(std::move(items));
}

Value extreme(const Value& input, const Arguments& arguments, int sign, Budget* budget) {
  arguments.allow("min and max", {"case_sensitive", "attribute"});
  auto keyed = with_keys(input, given(arguments, 1, "attribute"),
                         flag(arguments, 0, "case_sensitive"), budget);
  if (keyed.empty()) return Value::undefined("extreme of nothing");
  const auto best = std::min_element(
      keyed.begin(), keyed.end(),
      [&](const Keyed& a, const Keyed& b) { return sign * compare(a.key, b.key) < 0; });
  return best->item;
}

Value min_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  return extreme(input, arguments, 1, budget);
}

Value max_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  return extreme(input, arguments, -1, budget);
}

Value sum_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("sum", {"attribute", "start"});
  const Value* attribute = given(arguments, 0, "attribute");
  const Value* start = arguments.find(1, "start");
  Value total = start == nullptr ? Value(int64_t{0}) : *start;
  for (const Value& item : iterate(input, budget)) {
    total = apply(BinaryOperator::kAdd, total,
                  attribute == nullptr ? item : follow(item, *attribute), budget);
  }
  return total;
}

Value batch_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("batch", {"linecount", "fill_with"});
  const Value* count = arguments.find(0, "linecount");
  const int64_t size = count == nullptr ? 0 : int_of(*count, "batch's linecount");
  if (size < 1) throw TemplateError("batch needs a positive linecount");
  const Value* fill = given(arguments, 1, "fill_with");
  std::vector<Value> batches;
  std::vector<Value> batch;
  for (Value& item : iterate(input, budget)) {
    if (static_cast<int64_t>(batch.size()) == size) {
      batches.push_back(Value::list(std::exchange(batch, {})));
    }
    batch.push_back(std::move(item));
  }
  if (!batch.empty()) {
    if (fill != nullptr) {
      if (size > kMaxRange) throw TemplateError("batch makes a list that is too long");
      batch.resize(static_cast<size_t>(size), *fill);
    }
    batches.push_back(Value::list(std::move(batch)));
  }
  return generated(std::move(batches));
}

Value slice_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("slice", {"slices", "fill_with"});
  const Value* count = arguments.find(0, "slices");
  const int64_t slices = count == nullptr ? 0 : int_of(*count, "slice's slices");
  if (slices < 1) throw TemplateError("slice needs a positive number of slices");
  if (slices > kMaxRange) throw TemplateError("slice makes a list that is too long");
  const Value* fill = given(arguments, 1, "fill_with");
  const std::vector<Value> items = iterate(input, budget);
  budget->charge(slices);
  const auto size = static_cast<int64_t>(items.size());
  std::vector<Value> parts;
  auto begin = items.begin();
  for (int64_t i = 0; i < slices; ++i) {
    const auto end = begin + size / slices + (i < size % slices ? 1 : 0);
    std::vector<Value> part(begin, end);
    if (fill != nullptr && i >= size % slices) part.push_back(*fill);
    parts.push_back(Value::list(std::move(part)));
    begin = end;
  }
  return generated(std::move(parts));
}

Value groupby_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("groupby", {"attribute", "default", "case_sensitive"});
  const Value* attribute = arguments.find(0, "attribute");
  if (attribute == nullptr) throw TemplateError("groupby needs an attribute");
  const Value* otherwise = given(arguments, 1, "default");
  const bool case_sensitive = flag(arguments, 2, "case_sensitive");
  const auto shown_key = [&](const Value& item) {
    Value key = follow(item, *attribute);
    return key.is_undefined() && otherwise != nullptr ? *otherwise : key;
  };
  std::vector<Keyed> keyed;
  for (Value& item : iterate(input, budget)) {
    Value key = sort_key(shown_key(item), nullptr, case_sensitive);
    budget->charge(key.weight());
    keyed.push_back({std::move(key), std::move(item)});
  }
  sort_keyed(&keyed, false, budget);
  std::vector<Value> groups;
  for (size_t begin = 0; begin < keyed.size();) {
    std::vector<Value> items;
    size_t end = begin;
    while (end < keyed.size() && equal(keyed[end].key, keyed[begin].key)) {
      items.push_back(keyed[end++].item);
    }
    const Value key = shown_key(items.front());
    groups.push_back(Value::group(key, Value::list(std::move(items))));
    begin = end;
  }
  return Value::list(std::move(groups));
}

// The name at `position`, and the arguments after it.
std::string shift(const Arguments& arguments, size_t position, const char* what, Arguments* rest) {
  if (position >= arguments.positional.size()) {
    throw TemplateError(std::string(what) + " is missing");
  }
  rest->positional.assign(arguments.positional.begin() + static_cast<int64_t>(position) + 1,
                          arguments.positional.end());
  rest->named = arguments.named;
  return text_of(arguments.positional[position], what);
}

Value map_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  std::vector<Value> mapped;
  if (!input.truth()) return generated({});  // as jinja2: even of none
  if (arguments.positional.empty()) {
    arguments.allow("map", {"attribute", "default"});
    const Value* attribute = arguments.find(0, "attribute");
    if (attribute == nullptr) throw TemplateError("map needs a filter or attribute=");
    const Value* otherwise = arguments.find(1, "default");
    for (const Value& item : iterate(input, budget)) {
      Value value = follow(item, *attribute);
      mapped.push_back(value.is_undefined() && otherwise != nullptr ? *otherwise
                                                                    : std::move(value));
    }
    return generated(std::move(mapped));
  }
  Arguments rest;
  const std::string name = shift(arguments, 0, "map's filter", &rest);
  const Filter filter = find_filter(name);
  if (filter == nullptr) throw TemplateError("filter '" + name + "' is not supported");
  for (const Value& item : iterate(input, budget)) mapped.push_back(filter(item, rest, budget));
  return generated(std::move(mapped));
}

// select, reject, selectattr and rejectattr; without a test, by truth.
Value select(const Value& input, const Arguments& arguments, bool by_attribute, bool wanted,
             Budget* budget) {
  if (!input.truth()) return generated({});  // as jinja2: even of none
  Arguments rest = arguments;
  Value attribute;
  if (by_attribute) {
    shift(arguments, 0, "attribute", &rest);
    attribute = arguments.positional[0];
  }
  Test test = nullptr;
  if (!rest.positional.empty()) {
    const std::string name = shift(Arguments(rest), 0, "test", &rest);
    test = find_test(name);
    if (test == nullptr) throw TemplateError("test '" + name + "' is not supported");
  }
  std::vector<Value> kept;
  for (Value& item : iterate(input, budget)) {
    const Value subject = by_attribute ? follow(item, attribute) : item;
    const bool holds = test == nullptr ? subject.truth() : test(subject, rest, budget);
    if (holds == wanted) kept.push_back(std::move(item));
  }
  return generated(std::move(kept));
}

Value select_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  return select(input, arguments, false, true, budget);
}
Value reject_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  return select(input, arguments, false, false, budget);
}
Value selectattr_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  return select(input, arguments, true, true, budget);
}
Value rejectattr_filter(const Value& input, const Arguments& arguments, Budget* budget) {
  return select(input, arguments, true, false, budget);
}

Value attr_filter(const Value& input, const Arguments& arguments, Budget*) {
  arguments.allow("attr", {"name"});
  const Value* name = arguments.find(0, "name");
  if (name == nullptr) throw TemplateError("attr needs a name");
  // Entries of a dict are not attributes to this filter.
  if (input.dict_or_null() != nullptr) return Value::undefined(text_of(*name, "attr's name"));
  return get_attribute(input, text_of(*name, "attr's name"));
}

}  // namespace

Filter find_sequence_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> kFilters = {
      {"attr", attr_filter},
      {"batch", batch_filter},
      {"dictsort", dictsort_filter},
      {"first", first_filter},
      {"groupby", groupby_filter},
      {"items", items_filter},
      {"join", join_filter},
      {"last", last_filter},
      {"list", list_filter},
      {"map", map_filter},
      {"max", max_filter},
      {"min", min_filter},
      {"reject", reject_filter},
      {"rejectattr", rejectattr_filter},
      {"reverse", reverse_filter},
      {"select", select_filter},
      {"selectattr", selectattr_filter},
      {"slice", slice_filter},
      {"sort", sort_filter},
      {"sum", sum_filter},
      {"unique", unique_filter},
  };
  const auto found = kFilters.find(name);
  return found == kFilters.end() ? nullptr : found->second;
}

Filter find_filter(std::string_view name) {
  for (const auto find : {find_text_filter, find_sequence_filter, find_web_filter}) {
    if (const Filter filter = find(name)) return filter;
  }
  return nullptr;
}

}  // namespace moe4::jinja
