// format(value, spec) of Python: the language of widths, signs and precisions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "text/jinja/budget.h"
#include "text/jinja/value.h"

namespace moe4::jinja {

/// What "{:...}" makes of a value. Throws TemplateError for specs that Python refuses.
std::string format_value(const Value& value, std::string_view spec, Budget* budget);

/// Digits of a finite number that is not negative, as 'e', 'f' or 'g' (or a capital) lays them out;
/// `alternate` keeps the point and the zeros.
std::string float_digits(double magnitude, char type, int64_t precision, bool alternate);

/// Digits of an integer without its sign; `type` is d, b, o, x or X.
std::string integer_digits(const Value& value, char type);
bool is_negative(const Value& number);

/// A width or precision out of decimal digits at `*position`, which moves behind them; -1 for none.
/// Throws TemplateError beyond kMaxTextBytes.
int64_t read_count(std::string_view text, size_t* position);

}  // namespace moe4::jinja
