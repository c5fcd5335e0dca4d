// Cuts a template into tokens, with white space control as transformers sets up jinja2
// (trim_blocks and lstrip_blocks on).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace moe4::jinja {

enum class TokenKind {
  kData,           // text outside of tags
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string text;  // of a string: its value
  Value number;      // of an integer or a float
};

/// Thrown by lexer and parser.
struct SyntaxError {
  std::string message;
  int line;
};

/// The last token is kEnd. Throws SyntaxError.
std::vector<Token> tokenize(std::string_view source);

}  // namespace moe4::jinja
