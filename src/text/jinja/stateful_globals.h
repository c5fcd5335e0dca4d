// What joiner(...) and cycler(...) return.
#pragma once

#include "text/jinja/budget.h"
#include "text/jinja/value.h"

namespace moe4::jinja {

/// Called: "" the first time, the separator (", " unless given) from then on.
Value make_joiner(const Arguments& arguments);
/// With next(), reset() and current. Throws TemplateError without values.
Value make_cycler(const Arguments& arguments);

}  // namespace moe4::jinja
