// Construction, truth, equality and order of template values.
#include "text/jinja/value.h"

#include <algorithm>
#include <cmath>
#include <compare>

#include "text/jinja/budget.h"

namespace moe4::jinja {
namespace {

constexpr int64_t kMaxWeight = 10'000'000;

std::string tagged(char kind, std::string_view text) {
  std::string out(1, kind);
  return out.append(text);
}

// Equal keys have equal strings: 1, 1.0 and true are one key to Python.
std::string key_string(const Value& key) {
  if (const Text* text = key.text_or_null()) return tagged('s', text->bytes);
  if (key.is_bool() || key.is_int()) return tagged('i', std::to_string(key.as_int()));
  if (key.is_big()) return tagged('h', key.as_big().to_string(16));
  if (key.is_float()) {
    const double number = key.as_float();
    const bool whole = std::isfinite(number) && number == std::trunc(number);
    return whole ? key_string(Value::integer(BigInt::truncate(number)))
                 : tagged('f', float_repr(number));
  }
  if (key.is_none()) return "n";
  throw TemplateError("a key of type " + key.type_name() + " is not supported");
}

void add_child(const Value& child, int* depth, int64_t* weight) {
  *depth = std::max(*depth, child.depth() + 1);
  *weight += child.weight();
}

void check_size(int depth, int64_t weight) {
  if (depth > kMaxValueDepth) throw TemplateError("a value is nested too deeply");
  if (weight > kMaxWeight) throw TemplateError("a value is too large");
}

// An int and a float are compared exactly, as Python does: 2**53 + 1 is not float(2**53).
std::partial_ordering order_numbers(const Value& a, const Value& b) {
  if (a.is_float() && b.is_float()) return a.as_float() <=> b.as_float();
  if (b.is_float()) {
    const std::partial_ordering reversed = order_numbers(b, a);
    return reversed < 0   ? std::partial_ordering::greater
           : reversed > 0 ? std::partial_ordering::less
                          : reversed;
  }
  if (!a.is_float()) {
    if (!a.is_big() && !b.is_big()) return a.as_int() <=> b.as_int();
    return a.as_big() <=> b.as_big();
  }
  const double number = a.as_float();
  if (!std::isfinite(number)) return number <=> 0.0;
  const double whole = std::trunc(number);
  const std::strong_ordering order = BigInt::truncate(whole) <=> b.as_big();
  return order != 0 ? std::partial_ordering(order) : number <=> whole;
}

}  // namespace

void Dict::set(const Value& key, Value value) {
  add_child(key, &depth, &weight);
  add_child(value, &depth, &weight);
  const auto [position, fresh] = index_.emplace(key_string(key), entries_.size());
  if (fresh) {
    entries_.emplace_back(key, std::move(value));
  } else {
    entries_[position->second].second = std::move(value);
  }
}

const Value* Dict::find(const Value& key) const {
  if (key.list_or_null() != nullptr || key.dict_or_null() != nullptr) return nullptr;
  if (!key.is_text() && !key.is_number() && !key.is_none()) return nullptr;
  const auto found = index_.find(key_string(key));
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

const Value* Dict::find(std::string_view key) const {
  const auto found = index_.find(tagged('s', key));
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

Value::Value(std::string text, bool markup)
    : data_(std::make_shared<const Text>(Text{std::move(text), markup})) {}

Value Value::undefined(std::string name) {
  Value value;
  value.data_ = Undefined{std::make_shared<const std::string>(std::move(name))};
  return value;
}

Value Value::integer(BigInt value) {
  if (const auto small = value.to_int64()) return Value(*small);
  Value result;
  result.data_ = std::make_shared<const BigInt>(std::move(value));
  return result;
}

Value Value::list(std::vector<Value> items, bool tuple) {
  return of_list({.items = std::move(items), .tuple = tuple});
}

Value Value::group(Value grouper, Value list) {
  return of_list({.items = {std::move(grouper), std::move(list)}, .tuple = true, .group = true});
}

Value Value::lazy(std::vector<Value> items, Lazy kind, std::string label) {
  return of_list({.items = std::move(items), .lazy = kind, .label = std::move(label)});
}

Value Value::of_list(List list) {
  for (const Value& item : list.items) add_child(item, &list.depth, &list.weight);
  check_size(list.depth, list.weight);
  Value value;
  value.data_ = std::make_shared<const List>(std::move(list));
  return value;
}

Value Value::dict(Dict dict) {
  check_size(dict.depth, dict.weight);
  Value value;
  value.data_ = std::make_shared<const Dict>(std::move(dict));
  return value;
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_big()) return true;
  if (is_number()) return as_float() != 0;
  if (const Text* text = text_or_null()) return !text->bytes.empty();
  if (const List* list = list_or_null()) {
    return list->lazy == Lazy::kGenerator || !list->items.empty();
  }
  if (const Dict* dict = dict_or_null()) return !dict->entries().empty();
  return true;
}

std::string Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int() || is_big()) return "int";
  if (is_float()) return "float";
  if (is_text()) return "str";
  if (const List* list = list_or_null()) {
    if (list->plain()) return list->tuple ? "tuple" : "list";
    if (list->lazy == Lazy::kView) return list->label;
    return list->lazy == Lazy::kRange ? "range" : "generator";
  }
  if (dict_or_null() != nullptr) return "dict";
  if (namespace_or_null() != nullptr) return "Namespace";
  return loop_or_null() != nullptr ? "LoopContext" : "function";
}

int Value::depth() const {
  if (const List* list = list_or_null()) return list->depth;
  if (const Dict* dict = dict_or_null()) return dict->depth;
  if (const Callable* callable = callable_or_null()) return callable->depth();
  if (const LoopState* loop = loop_or_null()) return loop->value_depth;
  return 0;
}

int64_t Value::weight() const {
  if (const Text* text = text_or_null()) {
    return 1 + static_cast<int64_t>(text->bytes.size()) / kBytesPerStep;
  }
  if (const List* list = list_or_null()) return list->weight;
  if (const Dict* dict = dict_or_null()) return dict->weight;
  if (is_big()) return 1 + static_cast<int64_t>(as_big().size());
  return 1;
}

Value Callable::attribute(const std::string& name) const {
  return Value::undefined("function object." + name);
}

bool Value::same_object(const Value& other) const {
  if (data_.index() != other.data_.index()) return false;
  if (is_undefined() || is_none()) return true;
  if (is_number()) return equal(*this, other);
  if (is_text()) return text_or_null() == other.text_or_null();
  return list_or_null() == other.list_or_null() && dict_or_null() == other.dict_or_null() &&
         namespace_or_null() == other.namespace_or_null() &&
         callable_or_null() == other.callable_or_null() && loop_or_null() == other.loop_or_null();
}

const Value* Arguments::find(size_t position, std::string_view name) const {
  if (position < positional.size()) return &positional[position];
  for (const auto& [given, value] : named) {
    if (given == name) return &value;
  }
  return nullptr;
}

void Arguments::allow(const std::string& callee, const std::vector<std::string_view>& names) const {
  if (positional.size() > names.size()) {
    throw TemplateError(callee + " takes at most " + std::to_string(names.size()) +
                        " arguments, not " + std::to_string(positional.size()));
  }
  for (const auto& [given, value] : named) {
    if (std::find(names.begin(), names.end(), given) == names.end()) {
      throw TemplateError(callee + " has no argument " + given);
    }
  }
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return order_numbers(a, b) == 0;
  if (a.is_text() && b.is_text()) return a.text_or_null()->bytes == b.text_or_null()->bytes;
  const List* left = a.list_or_null();
  const List* right = b.list_or_null();
  if (left != nullptr && right != nullptr) {
    if (left->lazy == Lazy::kGenerator || right->lazy == Lazy::kGenerator) return left == right;
    return left->tuple == right->tuple && left->lazy == right->lazy &&
           std::equal(left->items.begin(), left->items.end(), right->items.begin(),
                      right->items.end(), equal);
  }
  const Dict* left_dict = a.dict_or_null();
  const Dict* right_dict = b.dict_or_null();
  if (left_dict != nullptr && right_dict != nullptr) {
    if (left_dict->entries().size() != right_dict->entries().size()) return false;
    return std::all_of(left_dict->entries().begin(), left_dict->entries().end(),
                       [&](const auto& entry) {
                         const Value* other = right_dict->find(entry.first);
                         return other != nullptr && equal(entry.second, *other);
                       });
  }
  return a.same_object(b);
}

int compare(const Value& a, const Value& b) {
  const auto order = [](const auto& x, const auto& y) { return x < y ? -1 : (y < x ? 1 : 0); };
  if (a.is_number() && b.is_number()) {
    const std::partial_ordering numbers = order_numbers(a, b);
    return numbers < 0 ? -1 : (numbers > 0 ? 1 : 0);
  }
  // The byte order of UTF-8 is the order of its code points.
  if (a.is_text() && b.is_text()) return order(a.text_or_null()->bytes, b.text_or_null()->bytes);
  const List* left = a.list_or_null();
  const List* right = b.list_or_null();
  if (left != nullptr && right != nullptr && left->tuple == right->tuple && left->plain() &&
      right->plain()) {
    for (size_t i = 0; i < std::min(left->items.size(), right->items.size()); ++i) {
      if (!equal(left->items[i], right->items[i])) return compare(left->items[i], right->items[i]);
    }
    return order(left->items.size(), right->items.size());
  }
  if (a.is_undefined() || b.is_undefined()) {
    throw TemplateError("'" + (a.is_undefined() ? a : b).undefined_name() + "' is undefined");
  }
  throw TemplateError("cannot order " + a.type_name() + " and " + b.type_name());
}

}  // namespace moe4::jinja
