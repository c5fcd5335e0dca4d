// Parses a template into a tree.
#pragma once

#include <string_view>

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace moe4::jinja {

/// Throws SyntaxError, also for tags, filters and tests that are not known.
Body parse_template(std::string_view source);

}  // namespace moe4::jinja
