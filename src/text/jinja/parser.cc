// Statements: one function a tag.
#include "text/jinja/parser.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "text/jinja/expression_parser.h"

namespace moe4::jinja {
namespace {

using StatementPtr = std::unique_ptr<Statement>;

class Parser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Body run() {
    Body body = parse_body({});
    return body;
  }

 private:
  static StatementPtr make(StatementKind kind, int line) {
    return std::make_unique<Statement>(Statement{.kind = kind, .line = line});
  }

  void expect_block_end() {
    if (!at(TokenKind::kBlockEnd)) fail_unexpected("end of statement block");
    next();
  }

  // Statements up to one of the `ends` tags, whose name becomes the current token.
  Body parse_body(const std::vector<std::string_view>& ends) {
    Body body;
    while (!at(TokenKind::kEnd)) {
      if (at(TokenKind::kData)) {
        body.push_back(make(StatementKind::kData, current().line));
        body.back()->text = next().text;
      } else if (at(TokenKind::kVariableBegin)) {
        body.push_back(make(StatementKind::kPrint, next().line));
        body.back()->expression = parse_tuple();
        if (!at(TokenKind::kVariableEnd)) fail_unexpected("end of print statement");
        next();
      } else {
        next();  // kBlockBegin: nothing else follows a closed tag
        const auto ends_here = [&](std::string_view name) { return at_name(name); };
        if (std::any_of(ends.begin(), ends.end(), ends_here)) return body;
        body.push_back(parse_statement());
        expect_block_end();
      }
    }
    if (!ends.empty())
      fail("unexpected end of template, expected '" + std::string(ends.back()) + "'");
    return body;
  }

  // From the end of the opening tag to the end tag, which is consumed.
  Body parse_block(std::string_view end) {
    skip_operator(":");
    expect_block_end();
    Body body = parse_body({end});
    next();
    return body;
  }

  StatementPtr parse_statement() {
    const Nesting nesting(this);
    const int line = current().line;
    const std::string tag = expect_name();
    if (tag == "if") return parse_if(line);
    if (tag == "for") return parse_for(line);
    if (tag == "set") return parse_set(line);
    if (tag == "macro") return parse_macro(line);
    if (tag == "call") return parse_call_block(line);
    if (tag == "filter") return parse_filter_block(line);
    if (tag == "with") return parse_with(line);
    if (tag == "print") return parse_print(line);
    if (tag == "break") return make(StatementKind::kBreak, line);
    if (tag == "continue") return make(StatementKind::kContinue, line);
    if (tag == "generation") {
      StatementPtr statement = make(StatementKind::kGroup, line);
      statement->body = parse_block("endgeneration");
      return statement;
    }
    throw SyntaxError{"tag '" + printable(tag, 60) + "' is not supported", line};
  }

  StatementPtr parse_if(int line) {
    StatementPtr statement = make(StatementKind::kIf, line);
    std::string tag = "if";
    while (tag != "endif") {
      Statement::Branch branch;
      if (tag != "else") branch.condition = parse_tuple(false);
      skip_operator(":");
      expect_block_end();
      ++branches_;
      branch.body = tag == "else" ? parse_body({"endif"}) : parse_body({"elif", "else", "endif"});
      --branches_;
      statement->branches.push_back(std::move(branch));
      tag = next().text;
    }
    return statement;
  }

  StatementPtr parse_for(int line) {
    StatementPtr statement = make(StatementKind::kFor, line);
    statement->target = parse_target(false, "in");
    if (!skip_name("in")) fail_unexpected("'in'");
    statement->expression = parse_tuple(false, false, "recursive");
    if (skip_name("if")) statement->condition = parse_expression();
    statement->recursive = skip_name("recursive");
    skip_operator(":");
    expect_block_end();
    statement->body = parse_body({"else", "endfor"});
    if (next().text == "else") statement->otherwise = parse_block("endfor");
    return statement;
  }

  StatementPtr parse_set(int line) {
    StatementPtr statement = make(StatementKind::kSet, line);
    statement->target = parse_target(true, "");
    if (skip_operator("=")) {
      statement->expression = parse_tuple();
      return statement;
    }
    statement->kind = StatementKind::kSetBlock;
    while (skip_operator("|")) statement->filters.push_back(parse_filter(nullptr));
    statement->body = parse_block("endset");
    return statement;
  }

  StatementPtr parse_macro(int line) {
    StatementPtr statement = make(StatementKind::kMacro, line);
    statement->text = expect_name();
    const bool outer_varargs = std::exchange(saw_varargs_, false);
    const bool outer_kwargs = std::exchange(saw_kwargs_, false);
    statement->parameters = parse_parameters();
    statement->body = parse_block("endmacro");
    statement->takes_varargs = std::exchange(saw_varargs_, outer_varargs);
    statement->takes_kwargs = std::exchange(saw_kwargs_, outer_kwargs);
    return statement;
  }

  StatementPtr parse_call_block(int line) {
    StatementPtr statement = make(StatementKind::kCallBlock, line);
    if (at_operator("(")) statement->parameters = parse_parameters();
    statement->expression = parse_expression();
    if (statement->expression->kind != ExpressionKind::kCall) fail("expected a call");
    statement->body = parse_block("endcall");
    return statement;
  }

  StatementPtr parse_filter_block(int line) {
    StatementPtr statement = make(StatementKind::kFilterBlock, line);
    do {
      statement->filters.push_back(parse_filter(nullptr));
    } while (skip_operator("|"));
    statement->body = parse_block("endfilter");
    return statement;
  }

  StatementPtr parse_with(int line) {
    StatementPtr statement = make(StatementKind::kWith, line);
    while (!at(TokenKind::kBlockEnd)) {
      if (!statement->assignments.empty()) expect_operator(",");
      Target target = parse_target(false, "");
      expect_operator("=");
      statement->assignments.emplace_back(std::move(target), parse_expression());
    }
    statement->body = parse_block("endwith");
    return statement;
  }

  StatementPtr parse_print(int line) {
    StatementPtr statement = make(StatementKind::kGroup, line);
    while (!at(TokenKind::kBlockEnd)) {
      if (!statement->body.empty()) expect_operator(",");
      statement->body.push_back(make(StatementKind::kPrint, current().line));
      statement->body.back()->expression = parse_expression();
    }
    return statement;
  }

  // name, name.attribute (in set), (a, b), or a, b up to the word `end_name`.
  Target parse_target(bool with_namespace, std::string_view end_name) {
    Target tuple;
    while (true) {
      tuple.parts.push_back(parse_one_target(with_namespace));
      if (!skip_operator(",")) break;
      tuple.tuple = true;
      if (at_operator("=") || (!end_name.empty() && at_name(end_name)) ||
          at(TokenKind::kBlockEnd) || at_operator(")")) {
        break;
      }
    }
    if (!tuple.tuple) {
      Target only = std::move(tuple.parts.front());
      return only;
    }
    return tuple;
  }

  Target parse_one_target(bool with_namespace) {
    const Nesting nesting(this);
    if (skip_operator("(")) {
      Target target = parse_target(with_namespace, "");
      expect_operator(")");
      return target;
    }
    static constexpr std::array<std::string_view, 6> kConstants = {"true", "false", "none",
                                                                   "True", "False", "None"};
    const std::string name = expect_name();
    if (std::find(kConstants.begin(), kConstants.end(), name) != kConstants.end()) {
      fail("cannot assign to '" + name + "'");
    }
    Target target{.name = name};
    if (with_namespace && skip_operator(".")) target.attribute = expect_name();
    return target;
  }
};

}  // namespace

Body parse_template(std::string_view source) { return Parser(tokenize(source)).run(); }

}  // namespace moe4::jinja
