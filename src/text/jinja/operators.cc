// Arithmetic with Python's rules of sign and type, containment, and subscripts.
#include "text/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "text/jinja/py_string.h"
#include "text/jinja/text_format.h"
#include "text/utf8.h"

namespace moe4::jinja {
namespace {

const char* symbol(BinaryOperator op) {
  constexpr const char* kSymbols[] = {"+", "-", "*", "/", "//", "%", "**"};
  return kSymbols[static_cast<int>(op)];
}

[[noreturn]] void too_long() { throw TemplateError("the template makes a value that is too long"); }

double float_power(double base, double exponent) {
  if (base == 0 && exponent < 0) throw TemplateError("zero to a negative power");
  if (base < 0 && std::isfinite(exponent) && exponent != std::trunc(exponent)) {
    throw TemplateError("a negative number to a fractional power is complex");
  }
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) {
    throw TemplateError("a power is too large for a float");
  }
  return result;
}

// Beyond 64 bits, or where 64 bits do not suffice on the way.
Value big_operation(BinaryOperator op, const BigInt& a, const BigInt& b, Budget* budget) {
  switch (op) {
    case BinaryOperator::kAdd:
      return Value::integer(BigInt::add(a, b));
    case BinaryOperator::kSubtract:
      return Value::integer(BigInt::add(a, b.negated()));
    case BinaryOperator::kMultiply:
      return Value::integer(BigInt::multiply(a, b, budget));
    case BinaryOperator::kPower: {
      if (b.negative()) return Value(float_power(a.to_double(), b.to_double()));
      const auto exponent = b.to_int64();
      if (!exponent) throw TemplateError("an exponent is too large");
      return Value::integer(BigInt::power(a, *exponent, budget));
    }
    default:
      break;
  }
  if (b.is_zero()) throw TemplateError("division by zero");
  if (op == BinaryOperator::kDivide) return Value(BigInt::true_divide(a, b, budget));
  BigInt remainder;
  BigInt quotient = BigInt::floor_divide(a, b, &remainder, budget);
  return Value::integer(std::move(op == BinaryOperator::kModulo ? remainder : quotient));
}

Value integer_operation(BinaryOperator op, const Value& left, const Value& right, Budget* budget) {
  const auto big = [&] { return big_operation(op, left.as_big(), right.as_big(), budget); };
  if (left.is_big() || right.is_big() || op == BinaryOperator::kPower) return big();
  const int64_t a = left.as_int();
  const int64_t b = right.as_int();
  int64_t result = 0;
  switch (op) {
    case BinaryOperator::kAdd:
      return __builtin_add_overflow(a, b, &result) ? big() : Value(result);
    case BinaryOperator::kSubtract:
      return __builtin_sub_overflow(a, b, &result) ? big() : Value(result);
    case BinaryOperator::kMultiply:
      return __builtin_mul_overflow(a, b, &result) ? big() : Value(result);
    default:
      break;
  }
  constexpr int64_t kExact = int64_t{1} << 53;  // both are floats without rounding
  const bool exact = std::max(a, b) <= kExact && std::min(a, b) >= -kExact;
  if (b == 0 || b == -1 || (op == BinaryOperator::kDivide && !exact)) return big();
  if (op == BinaryOperator::kDivide) {
    return Value(static_cast<double>(a) / static_cast<double>(b));
  }
  // Python rounds towards minus infinity; the remainder has the sign of the divisor.
  const bool adjust = a % b != 0 && (a % b < 0) != (b < 0);
  if (op == BinaryOperator::kFloorDivide) return Value(a / b - (adjust ? 1 : 0));
  return Value(a % b + (adjust ? b : 0));
}

// float_divmod of CPython: the quotient comes from the exact remainder.
double float_floor_divide(double a, double b, double* remainder) {
  *remainder = std::fmod(a, b);
  double quotient = (a - *remainder) / b;
  if (*remainder == 0) {
    *remainder = std::copysign(0.0, b);
  } else if ((*remainder < 0) != (b < 0)) {
    *remainder += b;
    quotient -= 1;
  }
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double whole = std::floor(quotient);
  return quotient - whole > 0.5 ? whole + 1 : whole;
}

Value float_operation(BinaryOperator op, double a, double b) {
  const bool divides = op == BinaryOperator::kDivide || op == BinaryOperator::kFloorDivide ||
                       op == BinaryOperator::kModulo;
  if (divides && b == 0) throw TemplateError("division by zero");
  double remainder = 0;
  switch (op) {
    case BinaryOperator::kAdd:
      return Value(a + b);
    case BinaryOperator::kSubtract:
      return Value(a - b);
    case BinaryOperator::kMultiply:
      return Value(a * b);
    case BinaryOperator::kDivide:
      return Value(a / b);
    case BinaryOperator::kFloorDivide:
      return Value(float_floor_divide(a, b, &remainder));
    case BinaryOperator::kModulo:
      float_floor_divide(a, b, &remainder);
      return Value(remainder);
    case BinaryOperator::kPower:
      return Value(float_power(a, b));
  }
  return {};
}

Value join_texts(const Text& left, const Text& right, Budget* budget) {
  budget->charge_text(static_cast<int64_t>(left.bytes.size() + right.bytes.size()));
  const bool markup = left.markup || right.markup;
  const auto part = [&](const Text& text) {
    return markup && !text.markup ? escape_html(text.bytes) : text.bytes;
  };
  return markup ? Value(part(left) + part(right), true) : Value(left.bytes + right.bytes);
}

Value repeat(const Value& value, int64_t count, Budget* budget) {
  count = std::max<int64_t>(count, 0);
  int64_t size = 0;
  if (const Text* text = value.text_or_null()) {
    if (__builtin_mul_overflow(static_cast<int64_t>(text->bytes.size()), count, &size)) too_long();
    budget->charge_text(size);
    std::string out;
    out.reserve(static_cast<size_t>(size));
    if (!text->bytes.empty()) {
      for (int64_t i = 0; i < count; ++i) out += text->bytes;
    }
    return Value(std::move(out), text->markup);
  }
  const List& list = *value.list_or_null();
  if (__builtin_mul_overflow(static_cast<int64_t>(list.items.size()), count, &size)) too_long();
  budget->charge(size);
  std::vector<Value> items;
  for (int64_t i = 0; i < (list.items.empty() ? 0 : count); ++i) {
    items.insert(items.end(), list.items.begin(), list.items.end());
  }
  return Value::list(std::move(items), list.tuple);
}

bool contains(const Value& container, const Value& item, Budget* budget) {
  if (const Text* text = container.text_or_null()) {
    if (!item.is_text()) {
      throw TemplateError("'in <string>' needs a string on its left, not " + item.type_name());
    }
    budget->charge(container.weight());
    return find_bytes(text->bytes, item.text_or_null()->bytes) != std::string_view::npos;
  }
  if (const Dict* dict = container.dict_or_null()) return dict->find(item) != nullptr;
  if (const List* list = container.list_or_null()) {
    const auto begin = list->items.begin() + static_cast<int64_t>(list->used);
    const auto found = std::find_if(begin, list->items.end(), [&](const Value& element) {
      budget->charge(std::min(element.weight(), item.weight()));
      return equal(element, item);
    });
    const bool held = found != list->items.end();
    // A generator is walked up to there.
    if (list->lazy == Lazy::kGenerator) {
      list->used = static_cast<size_t>(found - list->items.begin()) + (held ? 1 : 0);
    }
    return held;
  }
  if (container.is_undefined()) return false;
  throw TemplateError("a value of type " + container.type_name() + " cannot contain others");
}

}  // namespace

void require_defined(const Value& value) {
  if (value.is_undefined()) throw TemplateError("'" + value.undefined_name() + "' is undefined");
}

const std::string& text_of(const Value& value, const std::string& what) {
  require_defined(value);
  const Text* text = value.text_or_null();
  if (text == nullptr) throw TemplateError(what + " must be a string, not " + value.type_name());
  return text->bytes;
}

int64_t int_of(const Value& value, const std::string& what) {
  require_defined(value);
  if (value.is_big()) throw TemplateError(what + " is beyond 64 bits");
  if (!value.is_int() && !value.is_bool()) {
    throw TemplateError(what + " must be an integer, not " + value.type_name());
  }
  return value.as_int();
}

std::string character_of(const Value& value) {
  const int64_t code_point = int_of(value, "a character's code");
  const bool surrogate = code_point >= 0xD800 && code_point < 0xE000;
  if (code_point < 0 || code_point > 0x10FFFF || surrogate) {
    throw TemplateError("there is no character with the code " + std::to_string(code_point));
  }
  std::string character;
  append_code_point(static_cast<char32_t>(code_point), &character);
  return character;
}

Value apply(BinaryOperator op, const Value& left, const Value& right, Budget* budget) {
  require_defined(left);
  const Text* left_text = left.text_or_null();
  if (op == BinaryOperator::kModulo && left_text != nullptr) {
    if (left_text->markup) throw TemplateError("formatting a text marked safe is not supported");
    return Value(format_percent(left_text->bytes, right, budget));
  }
  require_defined(right);
  if (left.is_number() && right.is_number()) {
    if (left.is_float() || right.is_float()) {
      return float_operation(op, left.as_float(), right.as_float());
    }
    return integer_operation(op, left, right, budget);
  }
  const Text* right_text = right.text_or_null();
  const List* left_list = left.list_or_null();
  const List* right_list = right.list_or_null();
  if (op == BinaryOperator::kAdd && left_text != nullptr && right_text != nullptr) {
    return join_texts(*left_text, *right_text, budget);
  }
  if (op == BinaryOperator::kAdd && left_list != nullptr && right_list != nullptr &&
      left_list->tuple == right_list->tuple && left_list->plain() && right_list->plain()) {
    budget->charge(static_cast<int64_t>(left_list->items.size() + right_list->items.size()));
    std::vector<Value> items = left_list->items;
    items.insert(items.end(), right_list->items.begin(), right_list->items.end());
    return Value::list(std::move(items), left_list->tuple);
  }
  if (op == BinaryOperator::kMultiply) {
    const bool left_repeats = left_text != nullptr || left_list != nullptr;
    const Value& sequence = left_repeats ? left : right;
    const Value& count = left_repeats ? right : left;
    const List* list = sequence.list_or_null();
    if ((sequence.is_text() || (list != nullptr && list->plain())) &&
        (count.is_int() || count.is_bool())) {
      return repeat(sequence, count.as_int(), budget);
    }
  }
  throw TemplateError(std::string("operator ") + symbol(op) + " does not take " + left.type_name() +
                      " and " + right.type_name());
}

bool apply(Comparison op, const Value& left, const Value& right, Budget* budget) {
  if (op == Comparison::kIn) return contains(right, left, budget);
  if (op == Comparison::kNotIn) return !contains(right, left, budget);
  budget->charge(std::min(left.weight(), right.weight()));
  switch (op) {
    case Comparison::kEqual:
      return equal(left, right);
    case Comparison::kNotEqual:
      return !equal(left, right);
    case Comparison::kLess:
      return compare(left, right) < 0;
    case Comparison::kLessEqual:
      return compare(left, right) <= 0;
    case Comparison::kGreater:
      return compare(left, right) > 0;
    default:
      return compare(left, right) >= 0;
  }
}

Value negate(const Value& value) {
  require_defined(value);
  if (value.is_float()) return Value(-value.as_float());
  if (!value.is_number()) throw TemplateError("operator - does not take " + value.type_name());
  return Value::integer(value.as_big().negated());
}

std::vector<Value> iterate(const Value& value, Budget* budget) {
  std::vector<Value> items;
  if (const List* list = value.list_or_null()) {
    items.assign(list->items.begin() + static_cast<int64_t>(list->used), list->items.end());
    if (list->lazy == Lazy::kGenerator) list->used = list->items.size();
  } else if (const Dict* dict = value.dict_or_null()) {
    for (const auto& entry : dict->entries()) items.push_back(entry.first);
  } else if (const Text* text = value.text_or_null()) {
    budget->charge(static_cast<int64_t>(text->bytes.size()));
    for (const std::string_view character : code_points(text->bytes)) {
      items.emplace_back(std::string(character), text->markup);
    }
  } else if (!value.is_undefined()) {
    throw TemplateError("a value of type " + value.type_name() + " cannot be iterated over");
  }
  budget->charge(static_cast<int64_t>(items.size()));
  return items;
}

int64_t length(const Value& value) {
  if (const List* list = value.list_or_null()) {
    if (list->lazy == Lazy::kGenerator) {
      throw TemplateError("a generator has no length; list makes a list of it");
    }
    return static_cast<int64_t>(list->items.size());
  }
  if (const Dict* dict = value.dict_or_null()) return static_cast<int64_t>(dict->entries().size());
  if (const Text* text = value.text_or_null()) return count_code_points(text->bytes);
  if (value.is_undefined()) return 0;
  throw TemplateError("a value of type " + value.type_name() + " has no length");
}

Value get_item(const Value& value, const Value& key) {
  require_defined(value);
  if (const Dict* dict = value.dict_or_null()) {
    if (const Value* found = dict->find(key)) return *found;
  } else if (key.is_int() || key.is_bool()) {
    int64_t index = key.as_int();
    if (const List* list = value.list_or_null()) {
      const bool indexed = list->plain() || list->lazy == Lazy::kRange;
      if (!indexed) return Value::undefined(value.type_name() + " object[" + to_repr(key) + "]");
      if (index < 0) index += static_cast<int64_t>(list->items.size());
      if (index >= 0 && index < static_cast<int64_t>(list->items.size())) {
        return list->items[static_cast<size_t>(index)];
      }
    } else if (const Text* text = value.text_or_null()) {
      const auto characters = code_points(text->bytes);
      if (index < 0) index += static_cast<int64_t>(characters.size());
      if (index >= 0 && index < static_cast<int64_t>(characters.size())) {
        return Value(std::string(characters[static_cast<size_t>(index)]), text->markup);
      }
    }
  }
  return Value::undefined(value.type_name() + " object[" + to_repr(key) + "]");
}

Value get_slice(const Value& value, const Value& begin, const Value& end, const Value& step,
                Budget* budget) {
  require_defined(value);
  const Text* text = value.text_or_null();
  const List* list = value.list_or_null();
  const bool slices = list != nullptr && (list->plain() || list->lazy == Lazy::kRange);
  if (text == nullptr && !slices) {
    throw TemplateError("a value of type " + value.type_name() + " cannot be sliced");
  }
  budget->charge(text != nullptr ? static_cast<int64_t>(text->bytes.size()) / kBytesPerStep
                                 : static_cast<int64_t>(list->items.size()));
  const auto characters =
      text != nullptr ? code_points(text->bytes) : std::vector<std::string_view>();
  const auto size = static_cast<int64_t>(text != nullptr ? characters.size() : list->items.size());
  const int64_t stride = step.is_none() ? 1 : int_of(step, "slice step");
  if (stride == 0) throw TemplateError("slice step must not be zero");
  // PySlice_AdjustIndices.
  const int64_t low = stride < 0 ? -1 : 0;
  const int64_t high = stride < 0 ? size - 1 : size;
  const auto bound = [&](const Value& given, int64_t otherwise) {
    if (given.is_none()) return otherwise;
    const int64_t index = int_of(given, "slice bound");
    return index < 0 ? (index < -size ? low : std::max(index + size, low)) : std::min(index, high);
  };
  const int64_t from = bound(begin, stride < 0 ? high : low);
  const int64_t to = bound(end, stride < 0 ? low : high);
  std::string joined;
  std::vector<Value> items;
  for (int64_t i = from; stride > 0 ? i < to : i > to;) {
    if (text != nullptr) {
      joined += characters[static_cast<size_t>(i)];
    } else {
      items.push_back(list->items[static_cast<size_t>(i)]);
    }
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  if (list != nullptr && list->lazy == Lazy::kRange) {
    return Value::lazy(std::move(items), Lazy::kRange);
  }
  return text != nullptr ? Value(std::move(joined), text->markup)
                         : Value::list(std::move(items), list->tuple);
}

}  // namespace moe4::jinja
