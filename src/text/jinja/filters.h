// Filters and tests by name.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "text/jinja/budget.h"
#include "text/jinja/value.h"

namespace moe4::jinja {

using Filter = Value (*)(const Value& input, const Arguments& arguments, Budget* budget);
using Test = bool (*)(const Value& input, const Arguments& arguments, Budget* budget);

/// Null when there is none of that name.
Filter find_filter(std::string_view name);
Filter find_text_filter(std::string_view name);      // filters on one string or number
Filter find_sequence_filter(std::string_view name);  // filters on lists and dicts
Filter find_web_filter(std::string_view name);       // sizes, addresses, cut texts
Test find_test(std::string_view name);

/// value.name as a template sees it: an entry of a dict (but methods come first), else undefined.
Value get_attribute(const Value& value, const std::string& name);

/// Calls a method of a string or dict. Throws TemplateError when there is none.
Value call_method(const Value& self, const std::string& name, const Arguments& arguments,
                  Budget* budget);
/// float() of a text; nullopt where Python raises.
std::optional<double> parse_float(const std::string& text);
/// Whether Python has such a method on values of this type that templates may call.
bool has_method(const Value& self, std::string_view name);

}  // namespace moe4::jinja
