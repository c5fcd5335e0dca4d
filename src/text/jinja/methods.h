// Tables of methods by name, for the source files of methods only.
#pragma once

#include <string_view>
#include <unordered_map>

#include "text/jinja/budget.h"
#include "text/jinja/value.h"

namespace moe4::jinja {

using Method = Value (*)(const Value& self, const Arguments& arguments, Budget* budget);
using MethodTable = std::unordered_map<std::string_view, Method>;

const MethodTable& text_methods();

/// An argument by position or name; throws when it is missing.
const Value& required(const Arguments& arguments, size_t position, const char* name);

}  // namespace moe4::jinja
