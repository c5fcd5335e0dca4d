// The two ways of Python to put values into a text: str.format and the % operator.
#pragma once

#include <string>

#include "text/jinja/budget.h"
#include "text/jinja/value.h"

namespace moe4::jinja {

/// "{0.name:>5} {}".format(...), as jinja2's sandbox does it. Throws TemplateError.
std::string format_braces(const std::string& format, const Arguments& arguments, Budget* budget);

/// "%s is %(key)d" % values: a tuple of values, a mapping, or one value. Throws TemplateError.
std::string format_percent(const std::string& format, const Value& values, Budget* budget);

}  // namespace moe4::jinja
