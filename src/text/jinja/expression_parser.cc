// One function a level of precedence, in jinja2's order, which is not quite Python's.
#include "text/jinja/expression_parser.h"

#include <algorithm>
#include <optional>

#include "base/error.h"

namespace moe4::jinja {
namespace {

std::string quoted(std::string_view text) {
  std::string out(1, '\'');
  out.append(text);
  return out += '\'';
}

std::string describe(const Token& token) {
  if (token.kind == TokenKind::kEnd) return "end of template";
  if (token.kind == TokenKind::kData) return "template text";
  return quoted(printable(token.text, 60));
}

}  // namespace

Token ExpressionParser::next() {
  Token token = tokens_[position_];
  if (position_ + 1 < tokens_.size()) ++position_;
  return token;
}

bool ExpressionParser::at_operator(std::string_view text) const {
  return at(TokenKind::kOperator) && current().text == text;
}

bool ExpressionParser::at_name(std::string_view text) const {
  return at(TokenKind::kName) && current().text == text;
}

bool ExpressionParser::skip_operator(std::string_view text) {
  const bool found = at_operator(text);
  if (found) next();
  return found;
}

bool ExpressionParser::skip_name(std::string_view text) {
  const bool found = at_name(text);
  if (found) next();
  return found;
}

void ExpressionParser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) fail_unexpected(quoted(text));
}

std::string ExpressionParser::expect_name() {
  if (!at(TokenKind::kName)) fail_unexpected("a name");
  return next().text;
}

void ExpressionParser::fail(const std::string& message) const {
  throw SyntaxError{message, current().line};
}

void ExpressionParser::fail_unexpected(const std::string& expected) const {
  fail("expected " + expected + ", found " + describe(current()));
}

ExpressionPtr ExpressionParser::make(ExpressionKind kind, int line,
                                     std::vector<ExpressionPtr> children) {
  auto expression = std::make_unique<Expression>(Expression{.kind = kind, .line = line});
  expression->children = std::move(children);
  for (const ExpressionPtr& child : expression->children) {
    if (child != nullptr) expression->depth = std::max(expression->depth, child->depth + 1);
  }
  if (expression->depth > kMaxNesting) fail("expression is nested too deeply");
  return expression;
}

template <class... Children>
ExpressionPtr ExpressionParser::make_of(ExpressionKind kind, int line, Children... children) {
  std::vector<ExpressionPtr> list;
  (list.push_back(std::move(children)), ...);
  return make(kind, line, std::move(list));
}

ExpressionPtr ExpressionParser::parse_expression(bool with_conditional) {
  const Nesting nesting(this);
  ExpressionPtr value = parse_or();
  while (with_conditional && at_name("if")) {
    const int line = next().line;
    ExpressionPtr condition = parse_or();
    if (skip_name("else")) {
      value = make_of(ExpressionKind::kConditional, line, std::move(value), std::move(condition),
                      parse_expression());
    } else {
      value = make_of(ExpressionKind::kConditional, line, std::move(value), std::move(condition));
    }
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_or() {
  ExpressionPtr left = parse_and();
  while (at_name("or")) {
    const int line = next().line;
    left = make_of(ExpressionKind::kOr, line, std::move(left), parse_and());
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_and() {
  ExpressionPtr left = parse_not();
  while (at_name("and")) {
    const int line = next().line;
    left = make_of(ExpressionKind::kAnd, line, std::move(left), parse_not());
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_not() {
  if (!at_name("not")) return parse_compare();
  const Nesting nesting(this);
  const int line = next().line;
  return make_of(ExpressionKind::kNot, line, parse_not());
}

ExpressionPtr ExpressionParser::parse_compare() {
  const int line = current().line;
  std::vector<ExpressionPtr> operands;
  std::vector<Comparison> comparisons;
  operands.push_back(parse_sum());
  while (true) {
    std::optional<Comparison> comparison;
    if (skip_operator("=="))
      comparison = Comparison::kEqual;
    else if (skip_operator("!="))
      comparison = Comparison::kNotEqual;
    else if (skip_operator("<"))
      comparison = Comparison::kLess;
    else if (skip_operator("<="))
      comparison = Comparison::kLessEqual;
    else if (skip_operator(">"))
      comparison = Comparison::kGreater;
    else if (skip_operator(">="))
      comparison = Comparison::kGreaterEqual;
    else if (skip_name("in"))
      comparison = Comparison::kIn;
    else if (at_name("not") && look().kind == TokenKind::kName && look().text == "in") {
      next();
      next();
      comparison = Comparison::kNotIn;
    }
    if (!comparison) break;
    comparisons.push_back(*comparison);
    operands.push_back(parse_sum());
  }
  if (comparisons.empty()) return std::move(operands.front());
  ExpressionPtr result = make(ExpressionKind::kCompare, line, std::move(operands));
  result->comparisons = std::move(comparisons);
  return result;
}

ExpressionPtr ExpressionParser::parse_sum() {
  ExpressionPtr left = parse_concat();
  while (at_operator("+") || at_operator("-")) {
    const Token op = next();
    left = make_of(ExpressionKind::kBinary, op.line, std::move(left), parse_concat());
    left->binary = op.text == "+" ? BinaryOperator::kAdd : BinaryOperator::kSubtract;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_concat() {
  const int line = current().line;
  std::vector<ExpressionPtr> parts;
  parts.push_back(parse_product());
  while (skip_operator("~")) parts.push_back(parse_product());
  if (parts.size() == 1) return std::move(parts.front());
  return make(ExpressionKind::kConcat, line, std::move(parts));
}

ExpressionPtr ExpressionParser::parse_product() {
  ExpressionPtr left = parse_power();
  while (at_operator("*") || at_operator("/") || at_operator("//") || at_operator("%")) {
    const Token op = next();
    left = make_of(ExpressionKind::kBinary, op.line, std::move(left), parse_power());
    left->binary = op.text == "*"    ? BinaryOperator::kMultiply
                   : op.text == "/"  ? BinaryOperator::kDivide
                   : op.text == "//" ? BinaryOperator::kFloorDivide
                                     : BinaryOperator::kModulo;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_power() {
  ExpressionPtr left = parse_unary();
  while (at_operator("**")) {
    const int line = next().line;
    left = make_of(ExpressionKind::kBinary, line, std::move(left), parse_unary());
    left->binary = BinaryOperator::kPower;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filter) {
  const Nesting nesting(this);
  ExpressionPtr value;
  if (at_operator("-") || at_operator("+")) {
    const Token op = next();
    value = make_of(op.text == "-" ? ExpressionKind::kNegative : ExpressionKind::kPositive, op.line,
                    parse_unary(false));
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filter ? parse_filters(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::parse_primary() {
  const int line = current().line;
  const auto constant = [&](Value value) {
    ExpressionPtr result = make(ExpressionKind::kConstant, line);
    result->constant = std::move(value);
    return result;
  };
  switch (current().kind) {
    case TokenKind::kName: {
      const std::string name = next().text;
      if (name == "true" || name == "True") return constant(Value(true));
      if (name == "false" || name == "False") return constant(Value(false));
      if (name == "none" || name == "None") return constant(Value());
      ExpressionPtr result = make(ExpressionKind::kName, line);
      result->text = name;
      saw_varargs_ = saw_varargs_ || name == "varargs";
      saw_kwargs_ = saw_kwargs_ || name == "kwargs";
      return result;
    }
    case TokenKind::kString: {
      std::string text;
      while (at(TokenKind::kString)) text += next().text;
      return constant(Value(std::move(text)));
    }
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return constant(Value(next().number));
    default:
      break;
  }
  if (skip_operator("(")) {
    ExpressionPtr result = parse_tuple(true, true);
    expect_operator(")");
    return result;
  }
  if (at_operator("[")) return parse_list();
  if (at_operator("{")) return parse_dict();
  fail_unexpected("an expression");
}

ExpressionPtr ExpressionParser::parse_list() {
  const int line = next().line;
  std::vector<ExpressionPtr> items;
  while (!at_operator("]")) {
    if (!items.empty()) expect_operator(",");
    if (at_operator("]")) break;
    items.push_back(parse_expression());
  }
  expect_operator("]");
  return make(ExpressionKind::kList, line, std::move(items));
}

ExpressionPtr ExpressionParser::parse_dict() {
  const int line = next().line;
  std::vector<ExpressionPtr> items;
  while (!at_operator("}")) {
    if (!items.empty()) expect_operator(",");
    if (at_operator("}")) break;
    items.push_back(parse_expression());
    expect_operator(":");
    items.push_back(parse_expression());
  }
  expect_operator("}");
  return make(ExpressionKind::kDict, line, std::move(items));
}

ExpressionPtr ExpressionParser::parse_tuple(bool with_conditional, bool parentheses,
                                            std::string_view end_name) {
  const int line = current().line;
  std::vector<ExpressionPtr> items;
  bool tuple = false;
  while (true) {
    if (!items.empty()) expect_operator(",");
    if (at(TokenKind::kVariableEnd) || at(TokenKind::kBlockEnd) || at_operator(")") ||
        (!end_name.empty() && at_name(end_name))) {
      break;
    }
    items.push_back(parse_expression(with_conditional));
    if (!at_operator(",")) break;
    tuple = true;
  }
  if (!tuple && !items.empty()) return std::move(items.front());
  if (!tuple && !parentheses) fail_unexpected("an expression");
  return make(ExpressionKind::kTuple, line, std::move(items));
}

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr value) {
  while (true) {
    if (at_operator(".") || at_operator("[")) {
      value = parse_subscript(std::move(value));
    } else if (at_operator("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr value) {
  while (true) {
    if (skip_operator("|")) {
      value = parse_filter(std::move(value));
    } else if (at_name("is")) {
      value = parse_test(std::move(value));
    } else if (at_operator("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr value) {
  const Token open = next();
  if (open.text == ".") {
    if (at(TokenKind::kInteger)) {
      ExpressionPtr index = make(ExpressionKind::kConstant, open.line);
      index->constant = next().number;
      return make_of(ExpressionKind::kItem, open.line, std::move(value), std::move(index));
    }
    ExpressionPtr result = make_of(ExpressionKind::kAttribute, open.line, std::move(value));
    result->text = expect_name();
    return result;
  }
  // One subscript, or a slice.
  const auto left_out = [&] { return make(ExpressionKind::kConstant, open.line); };
  ExpressionPtr begin = at_operator(":") ? left_out() : parse_expression();
  if (skip_operator("]")) {
    return make_of(ExpressionKind::kItem, open.line, std::move(value), std::move(begin));
  }
  expect_operator(":");
  ExpressionPtr end = at_operator(":") || at_operator("]") ? left_out() : parse_expression();
  ExpressionPtr step = skip_operator(":") && !at_operator("]") ? parse_expression() : left_out();
  expect_operator("]");
  return make_of(ExpressionKind::kSlice, open.line, std::move(value), std::move(begin),
                 std::move(end), std::move(step));
}

ExpressionPtr ExpressionParser::parse_call(ExpressionPtr callee) {
  const int line = current().line;
  ExpressionPtr result = make_of(ExpressionKind::kCall, line, std::move(callee));
  result->call = parse_arguments();
  return result;
}

CallArguments ExpressionParser::parse_arguments() {
  CallArguments arguments;
  expect_operator("(");
  bool first = true;
  while (!at_operator(")")) {
    if (!first) {
      expect_operator(",");
      if (at_operator(")")) break;
    }
    first = false;
    if (skip_operator("*")) {
      if (arguments.star != nullptr) fail("a call can have one *argument");
      arguments.star = parse_expression();
    } else if (skip_operator("**")) {
      if (arguments.double_star != nullptr) fail("a call can have one **argument");
      arguments.double_star = parse_expression();
    } else if (at(TokenKind::kName) && look().kind == TokenKind::kOperator && look().text == "=") {
      std::string name = next().text;
      next();
      arguments.named.emplace_back(std::move(name), parse_expression());
    } else {
      if (!arguments.named.empty() || arguments.star != nullptr ||
          arguments.double_star != nullptr) {
        fail("a positional argument follows a named one");
      }
      arguments.positional.push_back(parse_expression());
    }
  }
  expect_operator(")");
  return arguments;
}

std::string ExpressionParser::parse_dotted_name() {
  std::string name = expect_name();
  while (skip_operator(".")) name.append(1, '.').append(expect_name());
  return name;
}

ExpressionPtr ExpressionParser::parse_filter(ExpressionPtr input) {
  const int line = current().line;
  const std::string name = parse_dotted_name();
  const Filter filter = find_filter(name);
  if (filter == nullptr && branches_ == 0) {
    throw SyntaxError{"filter '" + name + "' is not supported", line};
  }
  ExpressionPtr result = make_of(ExpressionKind::kFilter, line, std::move(input));
  result->text = name;
  result->filter = filter;
  if (at_operator("(")) result->call = parse_arguments();
  return result;
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr value) {
  const int line = next().line;
  const bool negated = skip_name("not");
  const std::string name = parse_dotted_name();
  const Test test = find_test(name);
  if (test == nullptr && branches_ == 0) {
    throw SyntaxError{"test '" + name + "' is not supported", line};
  }
  ExpressionPtr result = make_of(ExpressionKind::kTest, line, std::move(value));
  result->text = name;
  result->test = test;
  if (at_operator("(")) {
    result->call = parse_arguments();
  } else if (((at(TokenKind::kName) && !at_name("else") && !at_name("or") && !at_name("and")) ||
              at(TokenKind::kString) || at(TokenKind::kInteger) || at(TokenKind::kFloat) ||
              at_operator("[") || at_operator("{"))) {
    // As in jinja2, a name after a test is its argument: "x is divisibleby n".
    if (at_name("is")) fail("tests cannot be chained with 'is'");
    const Nesting nesting(this);
    result->call.positional.push_back(parse_postfix(parse_primary()));
  }
  if (negated) result = make_of(ExpressionKind::kNot, line, std::move(result));
  return result;
}

std::vector<Statement::Parameter> ExpressionParser::parse_parameters() {
  std::vector<Statement::Parameter> parameters;
  expect_operator("(");
  while (!at_operator(")")) {
    if (!parameters.empty()) expect_operator(",");
    Statement::Parameter parameter{.name = expect_name()};
    if (skip_operator("=")) {
      parameter.otherwise = parse_expression();
    } else if (!parameters.empty() && parameters.back().otherwise != nullptr) {
      fail("a parameter without default follows one with a default");
    }
    parameters.push_back(std::move(parameter));
  }
  expect_operator(")");
  return parameters;
}

}  // namespace moe4::jinja
