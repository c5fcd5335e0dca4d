// JSON into template values and back, as Python's json module writes it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "text/jinja/budget.h"
#include "text/jinja/value.h"

namespace moe4::jinja {

/// The order of keys and all digits of integers are kept; of equal keys the last one counts. Throws
/// TemplateError.
Value parse_json(std::string_view text);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level of it
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

/// json.dumps. Throws TemplateError for values that JSON lacks.
std::string to_json(const Value& value, const JsonStyle& style, Budget* budget);

}  // namespace moe4::jinja
