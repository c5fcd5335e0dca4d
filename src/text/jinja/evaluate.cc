// Expressions.
#include <algorithm>

#include "text/jinja/interpreter.h"
#include "text/jinja/interpreter_guards.h"
#include "text/jinja/operators.h"

namespace moe4::jinja {
namespace {

/// message.items without parentheses.
class BoundMethod : public Callable {
 public:
  BoundMethod(Value self, std::string name) : self_(std::move(self)), name_(std::move(name)) {}
  Value call(Interpreter& interpreter, const Arguments& arguments) const override {
    return call_method(self_, name_, arguments, interpreter.budget());
  }
  int depth() const override { return self_.depth() + 1; }

 private:
  Value self_;
  std::string name_;
};

Value bind(Value self, const std::string& name) {
  if (self.depth() >= kMaxValueDepth) throw TemplateError("a value is nested too deeply");
  return Value(
      std::shared_ptr<const Callable>(std::make_shared<BoundMethod>(std::move(self), name)));
}

}  // namespace

Value Interpreter::evaluate(const Expression& expression) {
  const DepthGuard guard(this);
  line_ = expression.line;
  const auto child = [&](size_t i) -> const Expression& { return *expression.children[i]; };
  switch (expression.kind) {
    case ExpressionKind::kConstant:
      return expression.constant;
    case ExpressionKind::kName:
      return evaluate_name(expression);
    case ExpressionKind::kList:
    case ExpressionKind::kTuple:
    case ExpressionKind::kDict:
      return evaluate_collection(expression);
    case ExpressionKind::kAttribute:
      return evaluate_attribute(expression);
    case ExpressionKind::kItem:
      return evaluate_item(expression);
    case ExpressionKind::kSlice: {
      const Value value = evaluate(child(0));
      const Value begin = evaluate(child(1));
      const Value end = evaluate(child(2));
      return get_slice(value, begin, end, evaluate(child(3)), &budget_);
    }
    case ExpressionKind::kCall:
      return evaluate_call(expression, nullptr);
    case ExpressionKind::kFilter:
      return evaluate_filter(expression, evaluate(child(0)));
    case ExpressionKind::kTest: {
      const Value input = evaluate(child(0));
      if (expression.test == nullptr) {
        throw TemplateError("test '" + expression.text + "' is not supported");
      }
      return Value(expression.test(input, evaluate_arguments(expression.call), &budget_));
    }
    case ExpressionKind::kNot:
      return Value(!evaluate(child(0)).truth());
    case ExpressionKind::kNegative:
      return negate(evaluate(child(0)));
    case ExpressionKind::kPositive: {
      Value value = evaluate(child(0));
      if (!value.is_number()) negate(value);  // for its complaint
      return value.is_bool() ? Value(value.as_int()) : value;
    }
    case ExpressionKind::kBinary: {
      const Value left = evaluate(child(0));
      return apply(expression.binary, left, evaluate(child(1)), &budget_);
    }
    case ExpressionKind::kCompare:
      return evaluate_compare(expression);
    case ExpressionKind::kConcat:
      return evaluate_concat(expression);
    case ExpressionKind::kAnd: {
      Value left = evaluate(child(0));
      return left.truth() ? evaluate(child(1)) : left;
    }
    case ExpressionKind::kOr: {
      Value left = evaluate(child(0));
      return left.truth() ? left : evaluate(child(1));
    }
    case ExpressionKind::kConditional:
      return evaluate_conditional(expression);
  }
  return {};
}

Value Interpreter::evaluate_name(const Expression& expression) {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    const auto found = scope->names.find(expression.text);
    if (found != scope->names.end()) return found->second;
  }
  return find_global(expression.text);
}

Value Interpreter::evaluate_attribute(const Expression& expression) {
  Value value = evaluate(*expression.children[0]);
  // Python's attribute lookup finds methods before jinja2 looks for entries.
  if (has_method(value, expression.text)) return bind(std::move(value), expression.text);
  return get_attribute(value, expression.text);
}

Value Interpreter::evaluate_item(const Expression& expression) {
  const Value value = evaluate(*expression.children[0]);
  const Value key = evaluate(*expression.children[1]);
  if (value.is_text()) budget_.charge(value.weight());
  Value item = get_item(value, key);
  // What is not an entry may be an attribute.
  if (item.is_undefined() && key.is_text()) {
    const std::string& name = key.text_or_null()->bytes;
    return has_method(value, name) ? bind(value, name) : get_attribute(value, name);
  }
  return item;
}

Value Interpreter::evaluate_collection(const Expression& expression) {
  if (expression.kind == ExpressionKind::kDict) {
    Dict dict;
    for (size_t i = 0; i < expression.children.size(); i += 2) {
      const Value key = evaluate(*expression.children[i]);
      dict.set(key, evaluate(*expression.children[i + 1]));
    }
    return Value::dict(std::move(dict));
  }
  std::vector<Value> items;
  items.reserve(expression.children.size());
  for (const ExpressionPtr& child : expression.children) items.push_back(evaluate(*child));
  return Value::list(std::move(items), expression.kind == ExpressionKind::kTuple);
}

Value Interpreter::evaluate_compare(const Expression& expression) {
  Value left = evaluate(*expression.children[0]);
  for (size_t i = 0; i < expression.comparisons.size(); ++i) {
    Value right = evaluate(*expression.children[i + 1]);
    if (!apply(expression.comparisons[i], left, right, &budget_)) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Value Interpreter::evaluate_concat(const Expression& expression) {
  std::string joined;
  for (const ExpressionPtr& child : expression.children) {
    const Value part = evaluate(*child);
    budget_.charge(part.weight());
    append(to_text(part), &joined);
  }
  return Value(std::move(joined));
}

Value Interpreter::evaluate_conditional(const Expression& expression) {
  if (evaluate(*expression.children[1]).truth()) return evaluate(*expression.children[0]);
  if (expression.children.size() == 3) return evaluate(*expression.children[2]);
  return Value::undefined("an inline if without else");
}

Arguments Interpreter::evaluate_arguments(const CallArguments& call) {
  Arguments arguments;
  for (const ExpressionPtr& value : call.positional) {
    arguments.positional.push_back(evaluate(*value));
  }
  for (const auto& [name, value] : call.named) {
    arguments.named.emplace_back(name, evaluate(*value));
  }
  if (call.star != nullptr) {
    for (Value& item : iterate(evaluate(*call.star), &budget_)) {
      arguments.positional.push_back(std::move(item));
    }
  }
  if (call.double_star != nullptr) {
    const Value mapping = evaluate(*call.double_star);
    const Dict* dict = mapping.dict_or_null();
    if (dict == nullptr) throw TemplateError("** needs a mapping, not " + mapping.type_name());
    for (const auto& [key, value] : dict->entries()) {
      budget_.charge();
      arguments.named.emplace_back(text_of(key, "name of an argument"), value);
    }
  }
  return arguments;
}

Value Interpreter::evaluate_filter(const Expression& expression, const Value& input) {
  const Arguments arguments = evaluate_arguments(expression.call);
  line_ = expression.line;
  if (expression.filter == nullptr) {
    throw TemplateError("filter '" + expression.text + "' is not supported");
  }
  return expression.filter(input, arguments, &budget_);
}

Value Interpreter::evaluate_call(const Expression& expression, const Arguments* extra) {
  const Expression& callee = *expression.children[0];
  const bool method = callee.kind == ExpressionKind::kAttribute;
  Value self = evaluate(method ? *callee.children[0] : callee);
  Arguments arguments = evaluate_arguments(expression.call);
  if (extra != nullptr) {
    arguments.named.insert(arguments.named.end(), extra->named.begin(), extra->named.end());
  }
  line_ = expression.line;
  if (!method) return call_value(self, arguments);
  if (has_method(self, callee.text)) return call_method(self, callee.text, arguments, &budget_);
  const Value held = get_attribute(self, callee.text);
  if (held.is_undefined()) {
    throw TemplateError("method " + self.type_name() + "." + callee.text + " is not supported");
  }
  return call_value(held, arguments);
}

Value Interpreter::call_value(const Value& callee, const Arguments& arguments) {
  require_defined(callee);
  if (const Callable* callable = callee.callable_or_null()) return callable->call(*this, arguments);
  if (const LoopState* loop = callee.loop_or_null()) return call_loop(*loop, arguments);
  throw TemplateError("a value of type " + callee.type_name() + " cannot be called");
}

}  // namespace moe4::jinja
