// The tree of a parsed template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/value.h"

namespace moe4::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class ExpressionKind {
  kConstant,     // constant
  kName,         // text
  kList,         // children
  kTuple,        // children
  kDict,         // children: key, value, key, value, ...
  kAttribute,    // children[0].text
  kItem,         // children[0][children[1]]
  kSlice,        // children[0][children[1]:children[2]:children[3]]
  kCall,         // children[0](call)
  kFilter,       // children[0]|text(call)
  kTest,         // children[0] is text(call)
  kNot,          // children[0]
  kNegative,     // children[0]
  kPositive,     // children[0]
  kBinary,       // children[0] binary children[1]
  kCompare,      // children[0] comparisons[0] children[1] comparisons[1] children[2] ...
  kConcat,       // children joined as strings
  kAnd,          // children[0], children[1]
  kOr,           // children[0], children[1]
  kConditional,  // children: value, condition, and maybe what holds otherwise
};

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr star;         // *expression
  ExpressionPtr double_star;  // **expression
};

struct Expression {
  ExpressionKind kind;
  int line = 0;
  int depth = 1;
  std::string text;
  Value constant;
  std::vector<ExpressionPtr> children;
  CallArguments call;
  BinaryOperator binary{};
  std::vector<Comparison> comparisons;
  Filter filter = nullptr;  // null: unknown, an error when it is reached
  Test test = nullptr;
};

/// Where an assignment goes: a name, an attribute of a namespace, or several of these.
struct Target {
  std::string name;
  std::string attribute;
  std::vector<Target> parts;  // not empty: a tuple
  bool tuple = false;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

enum class StatementKind {
  kData,         // text
  kPrint,        // expression
  kIf,           // branches
  kFor,          // target, expression, condition, body, otherwise, recursive
  kSet,          // target, expression
  kSetBlock,     // target, body, filters on the body
  kMacro,        // text, parameters, body
  kCallBlock,    // expression (a call), parameters, body
  kFilterBlock,  // filters, body
  kWith,         // assignments, body
  kGroup,        // body: {% generation %}, which renders as itself
  kBreak,
  kContinue,
};

struct Statement {
  struct Branch {
    ExpressionPtr condition;  // null: else
    Body body;
  };
  struct Parameter {
    std::string name;
    ExpressionPtr otherwise;  // default value, or null
  };

  StatementKind kind;
  int line = 0;
  std::string text;
  ExpressionPtr expression;
  ExpressionPtr condition;
  /// A chain of filters on the constant text that the body rendered to; see Interpreter::filtered.
  std::vector<ExpressionPtr> filters;
  Target target;
  std::vector<Branch> branches;
  std::vector<Parameter> parameters;
  std::vector<std::pair<Target, ExpressionPtr>> assignments;
  Body body;
  Body otherwise;
  bool recursive = false;
  bool takes_varargs = false;  // a macro that mentions varargs, kwargs
  bool takes_kwargs = false;
};

}  // namespace moe4::jinja
