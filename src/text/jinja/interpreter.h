// Runs a parsed template over a context.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/budget.h"
#include "text/jinja/value.h"

namespace moe4::jinja {

/// Names of one block. Inner scopes read outer ones and never write them.
struct Scope {
  std::unordered_map<std::string, Value> names;
  Scope* parent = nullptr;
  bool captured = false;  // a macro was defined inside: must live until the end
};

class Interpreter {
 public:
  Interpreter(const Body& body, const Dict& context);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  /// Once. Throws TemplateError; line() then says where.
  std::string render();
  int line() const { return line_; }

  /// What a macro renders to. `statement` is a macro or a call block, `scope` where it was defined.
  Value call_macro(const Statement& statement, Scope* scope, const Arguments& arguments);
  /// loop(items) inside a recursive for.
  Value call_loop(const LoopState& loop, const Arguments& arguments);
  Value make_namespace(const Arguments& arguments);
  Budget* budget() { return &budget_; }

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  class ScopeGuard;
  class DepthGuard;

  Flow run(const Body& body, std::string* out);
  Flow run(const Statement& statement, std::string* out);
  Flow run_if(const Statement& statement, std::string* out);
  void run_for(const Statement& statement, std::vector<Value> items, int64_t depth0,
               std::string* out);
  void run_call_block(const Statement& statement, std::string* out);
  void run_with(const Statement& statement, std::string* out);
  /// The body's text, rendered in a scope of its own, after the statement's filters.
  Value render_block(const Statement& statement);
  void assign(const Target& target, Value value);
  void append(const std::string& text, std::string* out);

  Value evaluate(const Expression& expression);
  Value evaluate_name(const Expression& expression);
  Value evaluate_attribute(const Expression& expression);
  Value evaluate_item(const Expression& expression);
  Value evaluate_call(const Expression& expression, const Arguments* extra);
  Value evaluate_filter(const Expression& expression, const Value& input);
  Value evaluate_compare(const Expression& expression);
  Value evaluate_collection(const Expression& expression);
  Value evaluate_concat(const Expression& expression);
  Value evaluate_conditional(const Expression& expression);
  Arguments evaluate_arguments(const CallArguments& call);
  Value call_value(const Value& callee, const Arguments& arguments);

  const Body& body_;
  Scope root_;
  Scope* scope_ = &root_;
  Budget budget_;
  int depth_ = 0;
  int line_ = 1;
  std::vector<std::unique_ptr<Scope>> kept_scopes_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

/// range, dict, namespace, joiner, cycler, raise_exception, ...; undefined for other names.
Value find_global(const std::string& name);

}  // namespace moe4::jinja
