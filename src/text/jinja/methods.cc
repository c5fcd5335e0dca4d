// Attributes, and the methods of dict, list and loop that a template may call.
#include "text/jinja/methods.h"

#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/operators.h"

namespace moe4::jinja {
namespace {

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
  constexpr const char* kNames[] = {"dict_keys", "dict_values", "dict_items"};
  return Value::lazy(std::move(items), Lazy::kView, kNames[static_cast<int>(Wanted)]);
}

Value copy_method(const Value& self, const Arguments& arguments, Budget*) {
  arguments.allow("copy", {});
  return self;
}

Value fromkeys_method(const Value&, const Arguments&, Budget*) {
  throw TemplateError("dict.fromkeys is not supported");
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

// Whether the arguments differ from those of the call before, in the whole loop.
Value changed_method(const Value& self, const Arguments& arguments, Budget* budget) {
  if (!arguments.named.empty()) throw TemplateError("loop.changed takes no named arguments");
  LoopState* loop = self.loop_or_null();
  Value now = Value::list(arguments.positional, true);
  budget->charge(now.weight());
  if (!loop->changed.is_none() && equal(loop->changed, now)) return Value(false);
  loop->value_depth = std::max(loop->value_depth, now.depth());
  loop->changed = std::move(now);
  return Value(true);
}

Value cycle_method(const Value& self, const Arguments& arguments, Budget*) {
  if (arguments.positional.empty()) throw TemplateError("loop.cycle needs values");
  return arguments.positional[self.loop_or_null()->index % arguments.positional.size()];
}

const MethodTable& methods_of(const Value& self) {
  static const MethodTable kNone;
  static const MethodTable kDict = {
      {"get", get_method},
      {"keys", entries_method<Part::kKeys>},
      {"values", entries_method<Part::kValues>},
      {"items", entries_method<Part::kItems>},
      {"copy", copy_method},
      {"fromkeys", fromkeys_method},
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
  static const MethodTable kTuple = {{"index", list_index_method}, {"count", list_count_method}};
  static const MethodTable kLoop = {{"cycle", cycle_method}, {"changed", changed_method}};
  if (self.is_text()) return text_methods();
  if (self.dict_or_null() != nullptr) return kDict;
  if (const List* list = self.list_or_null()) {
    if (list->lazy == Lazy::kGenerator || list->lazy == Lazy::kView) return kNone;
    return list->tuple || list->lazy == Lazy::kRange ? kTuple : kList;
  }
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
  return Value::undefined("loop." + name);
}

}  // namespace

const Value& required(const Arguments& arguments, size_t position, const char* name) {
  const Value* value = arguments.find(position, name);
  if (value == nullptr) throw TemplateError(std::string("argument ") + name + " is missing");
  return *value;
}

Value get_attribute(const Value& value, const std::string& name) {
  require_defined(value);
  if (const Dict* dict = value.dict_or_null()) {
    if (const Value* found = dict->find(name)) return *found;
  } else if (const Namespace* space = value.namespace_or_null()) {
    for (const auto& [attribute, held] : space->attributes) {
      if (attribute == name) return held;
    }
  } else if (const List* list = value.list_or_null(); list != nullptr && list->group) {
    if (name == "grouper" || name == "list") return list->items[name == "list" ? 1 : 0];
  } else if (const LoopState* loop = value.loop_or_null()) {
    return loop_attribute(*loop, name);
  } else if (const Callable* callable = value.callable_or_null()) {
    return callable->attribute(name);
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
