// Arithmetic with Python's rules of sign and type, containment, and subscripts.
#include "text/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "text/jinja/py_string.h"

namespace moe4::jinja {
namespace {

const char* symbol(BinaryOperator op) {
  constexpr const char* kSymbols[] = {"+", "-", "*", "/", "//", "%", "**"};
  return kSymbols[static_cast<int>(op)];
}

[[noreturn]] void overflow() { throw TemplateError("an integer leaves the range of 64 bits"); }

Value power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) throw TemplateError("zero to a negative power");
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  for (; exponent > 0 && base != 1; --exponent) {
    if (base == 0) return Value(int64_t{0});
    if (base == -1) return Value(int64_t{exponent % 2 == 0 ? result : -result});
    if (__builtin_mul_overflow(result, base, &result)) overflow();
  }
  return Value(result);
}

Value integer_operation(BinaryOperator op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case BinaryOperator::kAdd:
      if (__builtin_add_overflow(a, b, &result)) overflow();
      return Value(result);
    case BinaryOperator::kSubtract:
      if (__builtin_sub_overflow(a, b, &result)) overflow();
      return Value(result);
    case BinaryOperator::kMultiply:
      if (__builtin_mul_overflow(a, b, &result)) overflow();
      return Value(result);
    case BinaryOperator::kPower:
      return power(a, b);
    default:
      break;
  }
  if (b == 0) throw TemplateError("division by zero");
  if (op == BinaryOperator::kDivide) {
    return Value(static_cast<double>(a) / static_cast<double>(b));
  }
  if (b == -1) {  // INT64_MIN / -1 would trap
    if (op == BinaryOperator::kModulo) return Value(int64_t{0});
    return integer_operation(BinaryOperator::kSubtract, 0, a);
  }
  // Python rounds towards minus infinity; the remainder has the sign of the divisor.
  const bool adjust = a % b != 0 && (a % b < 0) != (b < 0);
  if (op == BinaryOperator::kFloorDivide) return Value(a / b - (adjust ? 1 : 0));
  return Value(a % b + (adjust ? b : 0));
}

Value float_operation(BinaryOperator op, double a, double b) {
  const bool divides = op == BinaryOperator::kDivide || op == BinaryOperator::kFloorDivide ||
                       op == BinaryOperator::kModulo;
  if (divides && b == 0) throw TemplateError("division by zero");
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
      return Value(std::floor(a / b));
    case BinaryOperator::kModulo: {
      const double remainder = std::fmod(a, b);
      return Value(remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder);
    }
    case BinaryOperator::kPower:
      return Value(std::pow(a, b));
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
    if (__builtin_mul_overflow(static_cast<int64_t>(text->bytes.size()), count, &size)) overflow();
    budget->charge_text(size);
    std::string out;
    out.reserve(static_cast<size_t>(size));
    if (!text->bytes.empty()) {
      for (int64_t i = 0; i < count; ++i) out += text->bytes;
    }
    return Value(std::move(out), text->markup);
  }
  const List& list = *value.list_or_null();
  if (__builtin_mul_overflow(static_cast<int64_t>(list.items.size()), count, &size)) overflow();
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
    return std::any_of(list->items.begin(), list->items.end(), [&](const Value& element) {
      budget->charge(std::min(element.weight(), item.weight()));
      return equal(element, item);
    });
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
  if (!value.is_int() && !value.is_bool()) {
    throw TemplateError(what + " must be an integer, not " + value.type_name());
  }
  return value.as_int();
}

Value apply(BinaryOperator op, const Value& left, const Value& right, Budget* budget) {
  require_defined(left);
  require_defined(right);
  if (left.is_number() && right.is_number()) {
    if (left.is_float() || right.is_float()) {
      return float_operation(op, left.as_float(), right.as_float());
    }
    return integer_operation(op, left.as_int(), right.as_int());
  }
  const Text* left_text = left.text_or_null();
  const Text* right_text = right.text_or_null();
  const List* left_list = left.list_or_null();
  const List* right_list = right.list_or_null();
  if (op == BinaryOperator::kAdd && left_text != nullptr && right_text != nullptr) {
    return join_texts(*left_text, *right_text, budget);
  }
  if (op == BinaryOperator::kAdd && left_list != nullptr && right_list != nullptr &&
      left_list->tuple == right_list->tuple) {
    budget->charge(static_cast<int64_t>(left_list->items.size() + right_list->items.size()));
    std::vector<Value> items = left_list->items;
    items.insert(items.end(), right_list->items.begin(), right_list->items.end());
    return Value::list(std::move(items), left_list->tuple);
  }
  if (op == BinaryOperator::kMultiply) {
    const bool left_repeats = left_text != nullptr || left_list != nullptr;
    const Value& sequence = left_repeats ? left : right;
    const Value& count = left_repeats ? right : left;
    if ((sequence.is_text() || sequence.list_or_null() != nullptr) &&
        (count.is_int() || count.is_bool())) {
      return repeat(sequence, count.as_int(), budget);
    }
  }
  if (op == BinaryOperator::kModulo && left_text != nullptr) {
    throw TemplateError("formatting with % is not supported");
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
  return integer_operation(BinaryOperator::kSubtract, 0, int_of(value, "operand of -"));
}

std::vector<Value> iterate(const Value& value, Budget* budget) {
  std::vector<Value> items;
  if (const List* list = value.list_or_null()) {
    items = list->items;
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
  if (const List* list = value.list_or_null()) return static_cast<int64_t>(list->items.size());
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
  if (text == nullptr && list == nullptr) {
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
  return text != nullptr ? Value(std::move(joined), text->markup)
                         : Value::list(std::move(items), list->tuple);
}

}  // namespace moe4::jinja
