// The values of the template language: Python's, as far as chat templates use them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "text/jinja/big_int.h"

namespace moe4::jinja {

class Value;
class Callable;
struct LoopState;

struct Text {
  std::string bytes;    // valid UTF-8
  bool markup = false;  // marked by |safe: joining it with plain text escapes the latter
};

/// What Python has beside list and tuple: things to iterate over that are neither.
enum class Lazy {
  kNo,
  kGenerator,  // of map, select, unique, ...: true, without length, can be walked once
  kView,       // of dict.items() and its kin: has a length, but no items by index
  kRange,
};

struct List {
  std::vector<Value> items;
  bool tuple = false;
  bool group = false;  // a tuple of groupby: its items are also called grouper and list
  Lazy lazy = Lazy::kNo;
  std::string label;        // "dict_items" of a view, "range(0, 3)"
  mutable size_t used = 0;  // of a generator: items that were taken already
  int depth = 1;            // of nested containers
  int64_t weight = 1;       // number of values inside, to charge for walking over them

  bool plain() const { return lazy == Lazy::kNo; }
};

/// Keeps insertion order, as Python's dict does.
class Dict {
 public:
  void set(const Value& key, Value value);
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  const std::vector<std::pair<Value, Value>>& entries() const { return entries_; }

  int depth = 1;
  int64_t weight = 1;

 private:
  std::vector<std::pair<Value, Value>> entries_;
  std::unordered_map<std::string, size_t> index_;
};

/// What namespace() makes: the one thing a template can change. The interpreter empties all of them
/// when it ends, because they can refer to each other in circles.
struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
};

struct None {};
struct Undefined {
  std::shared_ptr<const std::string> name;  // how it was asked for
};

/// Cheap to copy; everything but a namespace is immutable.
class Value {
 public:
  using Data = std::variant<Undefined, None, bool, int64_t, std::shared_ptr<const BigInt>, double,
                            std::shared_ptr<const Text>, std::shared_ptr<const List>,
                            std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
                            std::shared_ptr<const Callable>, std::shared_ptr<LoopState>>;

  Value() : data_(None{}) {}
  explicit Value(bool value) : data_(value) {}
  explicit Value(int64_t value) : data_(value) {}
  explicit Value(double value) : data_(value) {}
  explicit Value(std::string text, bool markup = false);
  explicit Value(const char*) = delete;
  explicit Value(std::shared_ptr<Namespace> value) : data_(std::move(value)) {}
  explicit Value(std::shared_ptr<const Callable> value) : data_(std::move(value)) {}
  explicit Value(std::shared_ptr<LoopState> value) : data_(std::move(value)) {}

  static Value undefined(std::string name);
  /// 64 bits where they suffice.
  static Value integer(BigInt value);
  /// Both check how deep and how large the result is.
  static Value list(std::vector<Value> items, bool tuple = false);
  static Value dict(Dict dict);
  /// `label`: the name of the view, or how the range is written.
  static Value lazy(std::vector<Value> items, Lazy kind, std::string label = "");
  /// What groupby makes of one group.
  static Value group(Value grouper, Value list);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  /// An int of 64 bits.
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  /// An int beyond 64 bits.
  bool is_big() const { return std::holds_alternative<std::shared_ptr<const BigInt>>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_bool() || is_int() || is_big() || is_float(); }
  bool is_text() const { return text_or_null() != nullptr; }

  const Text* text_or_null() const { return pointer<std::shared_ptr<const Text>>(); }
  const List* list_or_null() const { return pointer<std::shared_ptr<const List>>(); }
  const Dict* dict_or_null() const { return pointer<std::shared_ptr<const Dict>>(); }
  Namespace* namespace_or_null() const { return pointer<std::shared_ptr<Namespace>>(); }
  const Callable* callable_or_null() const { return pointer<std::shared_ptr<const Callable>>(); }
  LoopState* loop_or_null() const { return pointer<std::shared_ptr<LoopState>>(); }
  bool as_bool() const { return std::get<bool>(data_); }
  /// Of a bool or an int of 64 bits.
  int64_t as_int() const { return is_bool() ? int64_t{as_bool()} : std::get<int64_t>(data_); }
  /// Of a bool or any int.
  BigInt as_big() const {
    return is_big() ? *std::get<std::shared_ptr<const BigInt>>(data_) : BigInt(as_int());
  }
  /// Of any number; throws for ints beyond the range of a float.
  double as_float() const {
    if (is_big()) return std::get<std::shared_ptr<const BigInt>>(data_)->to_double();
    return is_float() ? std::get<double>(data_) : static_cast<double>(as_int());
  }
  /// Name under which an undefined value was asked for.
  const std::string& undefined_name() const { return *std::get<Undefined>(data_).name; }

  bool truth() const;
  /// "str", "int", "NoneType", ... for messages.
  std::string type_name() const;
  int depth() const;
  int64_t weight() const;
  /// Python's `is`: the same object.
  bool same_object(const Value& other) const;

 private:
  static Value of_list(List list);
  template <class Pointer>
  typename Pointer::element_type* pointer() const {
    const auto* held = std::get_if<Pointer>(&data_);
    return held == nullptr ? nullptr : held->get();
  }

  Data data_;
};

/// Arguments of a call, a filter or a test.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  /// By position or name; null when not given.
  const Value* find(size_t position, std::string_view name) const;
  /// Throws TemplateError when there are more positional arguments than names, or a name that is
  /// not among them.
  void allow(const std::string& callee, const std::vector<std::string_view>& names) const;
};

class Interpreter;

class Callable {
 public:
  virtual ~Callable() = default;
  virtual Value call(Interpreter& interpreter, const Arguments& arguments) const = 0;
  virtual int depth() const { return 0; }
  /// What the template sees as callable.name: a value, else undefined.
  virtual Value attribute(const std::string& name) const;
};

struct Statement;
struct Scope;

/// The `loop` variable.
struct LoopState {
  std::vector<Value> items;
  size_t index = 0;
  int64_t depth0 = 0;
  int value_depth = 0;  // of the items
  Value changed;        // arguments of the last loop.changed(), a tuple; None before the first
  /// For {% for ... recursive %}: what loop(items) renders again, and where. Null otherwise.
  const Statement* statement = nullptr;
  Scope* scope = nullptr;
};

/// Python's ==. Work is at most the smaller weight.
bool equal(const Value& a, const Value& b);
/// Negative, zero or positive; throws TemplateError for values that Python cannot order.
int compare(const Value& a, const Value& b);

/// str() and repr().
std::string to_text(const Value& value);
std::string to_repr(const Value& value);
/// repr() of a float: the shortest digits that read back the same.
std::string float_repr(double value);

}  // namespace moe4::jinja
