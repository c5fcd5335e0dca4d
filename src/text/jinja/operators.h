// Python's operators on template values. All throw TemplateError where Python would raise.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/jinja/budget.h"
#include "text/jinja/value.h"

namespace moe4::jinja {

enum class BinaryOperator { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
enum class Comparison {
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn
};

Value apply(BinaryOperator op, const Value& left, const Value& right, Budget* budget);
bool apply(Comparison op, const Value& left, const Value& right, Budget* budget);
Value negate(const Value& value);

/// What a for loop visits: items, keys, characters; nothing for undefined.
std::vector<Value> iterate(const Value& value, Budget* budget);
/// len().
int64_t length(const Value& value);

/// value[key]: an item, else undefined.
Value get_item(const Value& value, const Value& key);
/// value[begin:end:step]; None stands for what is left out.
Value get_slice(const Value& value, const Value& begin, const Value& end, const Value& step,
                Budget* budget);

/// Throws for undefined values, naming what was asked for.
void require_defined(const Value& value);
/// The text of a string argument; throws for other types.
const std::string& text_of(const Value& value, const std::string& what);
int64_t int_of(const Value& value, const std::string& what);
/// chr(): the character with this code.
std::string character_of(const Value& value);

}  // namespace moe4::jinja
