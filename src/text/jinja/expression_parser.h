// Parses the expressions of a template; the statement parser builds on it.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace moe4::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  /// Counts how deep the parser is in itself.
  class Nesting {
   public:
    explicit Nesting(ExpressionParser* parser) : parser_(parser) {
      if (++parser_->nesting_ > kMaxNesting) parser_->fail("template is nested too deeply");
    }
    ~Nesting() { --parser_->nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    ExpressionParser* parser_;
  };

  const Token& current() const { return tokens_[position_]; }
  const Token& look() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
  Token next();
  bool at(TokenKind kind) const { return current().kind == kind; }
  bool at_operator(std::string_view text) const;
  bool at_name(std::string_view text) const;
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_operator(std::string_view text);
  std::string expect_name();
  [[noreturn]] void fail(const std::string& message) const;
  [[noreturn]] void fail_unexpected(const std::string& expected) const;

  /// With the ternary operator or without.
  ExpressionPtr parse_expression(bool with_conditional = true);
  /// One expression, or several with commas: a tuple. `end_name` also ends it.
  ExpressionPtr parse_tuple(bool with_conditional = true, bool parentheses = false,
                            std::string_view end_name = "");
  std::vector<Statement::Parameter> parse_parameters();
  /// "name(arguments)" after a pipe or the word filter; the input is filled in later when null.
  ExpressionPtr parse_filter(ExpressionPtr input);

  /// Whether these names were read since the flags were cleared.
  bool saw_varargs_ = false;
  bool saw_kwargs_ = false;
  /// Above zero inside {% if %}, where unknown filters and tests matter only if they are reached.
  int branches_ = 0;

 private:
  ExpressionPtr make(ExpressionKind kind, int line, std::vector<ExpressionPtr> children = {});
  template <class... Children>
  ExpressionPtr make_of(ExpressionKind kind, int line, Children... children);
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concat();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filter = true);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr value);
  ExpressionPtr parse_filters(ExpressionPtr value);
  ExpressionPtr parse_subscript(ExpressionPtr value);
  ExpressionPtr parse_call(ExpressionPtr callee);
  ExpressionPtr parse_test(ExpressionPtr value);
  CallArguments parse_arguments();
  std::string parse_dotted_name();

  std::vector<Token> tokens_;
  size_t position_ = 0;
  int nesting_ = 0;
};

}  // namespace moe4::jinja
