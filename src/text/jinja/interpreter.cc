// Statements: scopes, loops, macros. Expressions are in evaluate.cc.
#include "text/jinja/interpreter.h"

#include <algorithm>

#include "text/jinja/interpreter_guards.h"
#include "text/jinja/operators.h"

namespace moe4::jinja {
namespace {

/// A macro, or the body of a call block.
class Macro : public Callable {
 public:
  Macro(const Statement* statement, Scope* scope) : statement_(statement), scope_(scope) {}
  Value call(Interpreter& interpreter, const Arguments& arguments) const override {
    return interpreter.call_macro(*statement_, scope_, arguments);
  }

 private:
  const Statement* statement_;
  Scope* scope_;
};

void keep(Scope* scope) {
  for (; scope != nullptr && !scope->captured; scope = scope->parent) scope->captured = true;
}

Value macro_value(const Statement& statement, Scope* scope) {
  keep(scope);
  return Value(std::shared_ptr<const Callable>(std::make_shared<Macro>(&statement, scope)));
}

}  // namespace

Interpreter::Interpreter(const Body& body, const Dict& context) : body_(body) {
  for (const auto& [key, value] : context.entries()) {
    root_.names[key.text_or_null()->bytes] = value;
  }
}

Interpreter::~Interpreter() {
  for (const auto& space : namespaces_) space->attributes.clear();
}

std::string Interpreter::render() {
  std::string out;
  run(body_, &out);
  return out;
}

void Interpreter::append(const std::string& text, std::string* out) {
  budget_.charge(1 + static_cast<int64_t>(text.size()) / kBytesPerStep);
  out->append(text);
  if (static_cast<int64_t>(out->size()) > kMaxTextBytes) {
    throw TemplateError("the template makes a text that is too long");
  }
}

Interpreter::Flow Interpreter::run(const Body& body, std::string* out) {
  for (const auto& statement : body) {
    const Flow flow = run(*statement, out);
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::run(const Statement& statement, std::string* out) {
  const DepthGuard guard(this);
  line_ = statement.line;
  switch (statement.kind) {
    case StatementKind::kData:
      append(statement.text, out);
      break;
    case StatementKind::kPrint: {
      const Value value = evaluate(*statement.expression);
      budget_.charge(value.weight());
      append(to_text(value), out);
      break;
    }
    case StatementKind::kIf:
      return run_if(statement, out);
    case StatementKind::kFor:
      run_for(statement, iterate(evaluate(*statement.expression), &budget_), 0, out);
      break;
    case StatementKind::kSet:
      assign(statement.target, evaluate(*statement.expression));
      break;
    case StatementKind::kSetBlock:
      assign(statement.target, render_block(statement));
      break;
    case StatementKind::kMacro:
      scope_->names[statement.text] = macro_value(statement, scope_);
      break;
    case StatementKind::kCallBlock:
      run_call_block(statement, out);
      break;
    case StatementKind::kFilterBlock:
      append(to_text(render_block(statement)), out);
      break;
    case StatementKind::kWith:
      run_with(statement, out);
      break;
    case StatementKind::kGroup:
      return run(statement.body, out);
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::run_if(const Statement& statement, std::string* out) {
  for (const Statement::Branch& branch : statement.branches) {
    if (branch.condition == nullptr || evaluate(*branch.condition).truth()) {
      return run(branch.body, out);
    }
  }
  return Flow::kNormal;
}

void Interpreter::run_for(const Statement& statement, std::vector<Value> items, int64_t depth0,
                          std::string* out) {
  if (statement.condition != nullptr) {
    std::vector<Value> kept;
    for (Value& item : items) {
      const ScopeGuard guard(this, scope_);
      assign(statement.target, item);
      if (evaluate(*statement.condition).truth()) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  auto loop = std::make_shared<LoopState>();
  loop->items = std::move(items);
  loop->depth0 = depth0;
  for (const Value& item : loop->items) {
    loop->value_depth = std::max(loop->value_depth, item.depth());
  }
  if (statement.recursive) {
    keep(scope_);
    loop->statement = &statement;
    loop->scope = scope_;
  }
  // What loop.changed holds may be the loop itself.
  const std::shared_ptr<LoopState> forget(loop.get(), [](LoopState* l) { l->changed = Value(); });
  for (; loop->index < loop->items.size(); ++loop->index) {
    budget_.charge();
    const ScopeGuard guard(this, scope_);
    scope_->names["loop"] = Value(loop);
    assign(statement.target, loop->items[loop->index]);
    if (run(statement.body, out) == Flow::kBreak) break;
  }
  if (loop->items.empty()) {
    const ScopeGuard guard(this, scope_);
    run(statement.otherwise, out);
  }
}

Value Interpreter::call_loop(const LoopState& loop, const Arguments& arguments) {
  if (loop.statement == nullptr) throw TemplateError("only a recursive loop can be called");
  arguments.allow("loop", {"iterable"});
  const Value* items = arguments.find(0, "iterable");
  if (items == nullptr) throw TemplateError("loop needs something to iterate over");
  const DepthGuard depth(this);
  const ScopeGuard guard(this, loop.scope);
  std::string out;
  run_for(*loop.statement, iterate(*items, &budget_), loop.depth0 + 1, &out);
  return Value(std::move(out));
}

Value Interpreter::call_macro(const Statement& statement, Scope* scope,
                              const Arguments& arguments) {
  const DepthGuard depth(this);
  const ScopeGuard guard(this, scope);
  const auto& parameters = statement.parameters;
  std::vector<Value> extra;
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    if (i < parameters.size()) {
      scope_->names[parameters[i].name] = arguments.positional[i];
    } else {
      extra.push_back(arguments.positional[i]);
    }
  }
  if (!extra.empty() && !statement.takes_varargs) {
    throw TemplateError("macro '" + statement.text + "' takes at most " +
                        std::to_string(parameters.size()) + " arguments");
  }
  Dict unknown;
  for (const auto& argument : arguments.named) {
    const std::string& name = argument.first;
    const Value& value = argument.second;
    const bool known = std::any_of(parameters.begin(), parameters.end(),
                                   [&](const auto& parameter) { return parameter.name == name; });
    if (known || name == "caller") {
      if (!scope_->names.emplace(name, value).second) {
        throw TemplateError("macro '" + statement.text + "' got '" + name + "' twice");
      }
    } else if (statement.takes_kwargs) {
      unknown.set(Value(name), value);
    } else {
      throw TemplateError("macro '" + statement.text + "' has no argument '" + name + "'");
    }
  }
  if (statement.takes_varargs) scope_->names["varargs"] = Value::list(std::move(extra), true);
  if (statement.takes_kwargs) scope_->names["kwargs"] = Value::dict(std::move(unknown));
  for (const Statement::Parameter& parameter : parameters) {
    if (scope_->names.contains(parameter.name)) continue;
    Value value = parameter.otherwise == nullptr ? Value::undefined(parameter.name)
                                                 : evaluate(*parameter.otherwise);
    scope_->names[parameter.name] = std::move(value);
  }
  std::string out;
  run(statement.body, &out);
  return Value(std::move(out));
}

void Interpreter::run_call_block(const Statement& statement, std::string* out) {
  Arguments extra;
  extra.named.emplace_back("caller", macro_value(statement, scope_));
  const Value value = evaluate_call(*statement.expression, &extra);
  append(to_text(value), out);
}

void Interpreter::run_with(const Statement& statement, std::string* out) {
  std::vector<Value> values;
  for (const auto& [target, expression] : statement.assignments) {
    values.push_back(evaluate(*expression));
  }
  const ScopeGuard guard(this, scope_);
  for (size_t i = 0; i < values.size(); ++i) {
    assign(statement.assignments[i].first, std::move(values[i]));
  }
  run(statement.body, out);
}

Value Interpreter::render_block(const Statement& statement) {
  std::string text;
  {
    const ScopeGuard guard(this, scope_);
    run(statement.body, &text);
  }
  Value value(std::move(text));
  for (const ExpressionPtr& filter : statement.filters) value = evaluate_filter(*filter, value);
  return value;
}

void Interpreter::assign(const Target& target, Value value) {
  if (target.tuple) {
    const std::vector<Value> items = iterate(value, &budget_);
    if (items.size() != target.parts.size()) {
      throw TemplateError("cannot unpack " + std::to_string(items.size()) + " values into " +
                          std::to_string(target.parts.size()) + " names");
    }
    for (size_t i = 0; i < items.size(); ++i) assign(target.parts[i], items[i]);
    return;
  }
  if (target.attribute.empty()) {
    scope_->names[target.name] = std::move(value);
    return;
  }
  Expression name{.kind = ExpressionKind::kName, .text = target.name};
  const Value holder = evaluate_name(name);
  Namespace* space = holder.namespace_or_null();
  if (space == nullptr) {
    throw TemplateError("cannot assign to an attribute of '" + target.name +
                        "', which is not a namespace");
  }
  for (auto& [attribute, held] : space->attributes) {
    if (attribute == target.attribute) {
      held = std::move(value);
      return;
    }
  }
  space->attributes.emplace_back(target.attribute, std::move(value));
}

Value Interpreter::make_namespace(const Arguments& arguments) {
  auto space = std::make_shared<Namespace>();
  for (const Value& source : arguments.positional) {
    const Dict* dict = source.dict_or_null();
    if (dict == nullptr) throw TemplateError("namespace needs a mapping");
    for (const auto& [key, value] : dict->entries()) {
      budget_.charge();
      space->attributes.emplace_back(text_of(key, "attribute of a namespace"), value);
    }
  }
  for (const auto& argument : arguments.named) {
    const std::string& name = argument.first;
    const Value& value = argument.second;
    const auto same = std::find_if(space->attributes.begin(), space->attributes.end(),
                                   [&](const auto& entry) { return entry.first == name; });
    if (same != space->attributes.end()) {
      same->second = value;
    } else {
      space->attributes.emplace_back(name, value);
    }
  }
  namespaces_.push_back(space);
  return Value(std::move(space));
}

}  // namespace moe4::jinja
