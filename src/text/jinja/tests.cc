// Tests: what may follow the word "is".
#include <unordered_map>

#include "text/jinja/filters.h"
#include "text/jinja/letter_case.h"
#include "text/jinja/operators.h"
#include "text/jinja/py_string.h"

namespace moe4::jinja {
namespace {

const Value& operand(const Arguments& arguments) {
  if (arguments.positional.size() != 1 || !arguments.named.empty()) {
    throw TemplateError("the test takes one argument");
  }
  return arguments.positional[0];
}

template <bool (*Predicate)(const Value&)>
bool unary(const Value& input, const Arguments& arguments, Budget*) {
  arguments.allow("the test", {});
  return Predicate(input);
}

template <Comparison Op>
bool compares(const Value& input, const Arguments& arguments, Budget* budget) {
  return apply(Op, input, operand(arguments), budget);
}

bool is_defined(const Value& v) { return !v.is_undefined(); }
bool is_undefined(const Value& v) { return v.is_undefined(); }
bool is_none(const Value& v) { return v.is_none(); }
bool is_string(const Value& v) { return v.is_text(); }
bool is_number(const Value& v) { return v.is_number(); }
bool is_integer(const Value& v) { return v.is_int() || v.is_big(); }
bool is_float(const Value& v) { return v.is_float(); }
bool is_boolean(const Value& v) { return v.is_bool(); }
bool is_true(const Value& v) { return v.is_bool() && v.as_bool(); }
bool is_false(const Value& v) { return v.is_bool() && !v.as_bool(); }
bool is_mapping(const Value& v) { return v.dict_or_null() != nullptr; }
bool is_callable(const Value& v) {
  return v.callable_or_null() != nullptr || v.loop_or_null() != nullptr;
}
bool is_escaped(const Value& v) { return v.is_text() && v.text_or_null()->markup; }
// jinja2's Undefined can be iterated over and has a length.
bool is_sequence(const Value& v) {
  const List* list = v.list_or_null();
  if (list != nullptr) return list->plain() || list->lazy == Lazy::kRange;
  return v.is_undefined() || v.is_text() || is_mapping(v);
}
bool is_iterable(const Value& v) {
  return is_sequence(v) || v.list_or_null() != nullptr || v.loop_or_null() != nullptr;
}
bool is_lower_text(const Value& v) { return is_lower(to_text(v)); }
bool is_upper_text(const Value& v) { return is_upper(to_text(v)); }

bool divides(const Value& number, const Value& divisor, Budget* budget) {
  return !apply(BinaryOperator::kModulo, number, divisor, budget).truth();
}

void require_number(const Value& value) {
  require_defined(value);
  if (!value.is_number()) throw TemplateError("the test needs a number, not " + value.type_name());
}

bool odd_test(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("odd", {});
  require_number(input);
  return !divides(input, Value(int64_t{2}), budget);
}

bool even_test(const Value& input, const Arguments& arguments, Budget* budget) {
  arguments.allow("even", {});
  require_number(input);
  return divides(input, Value(int64_t{2}), budget);
}

bool divisible_test(const Value& input, const Arguments& arguments, Budget* budget) {
  require_number(input);
  require_number(operand(arguments));
  return divides(input, operand(arguments), budget);
}

bool same_test(const Value& input, const Arguments& arguments, Budget*) {
  return input.same_object(operand(arguments));
}

bool filter_test(const Value& input, const Arguments&, Budget*) {
  return input.is_text() && find_filter(input.text_or_null()->bytes) != nullptr;
}

bool test_test(const Value& input, const Arguments&, Budget*) {
  return input.is_text() && find_test(input.text_or_null()->bytes) != nullptr;
}

}  // namespace

Test find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, Test> kTests = {
      {"defined", unary<is_defined>},
      {"undefined", unary<is_undefined>},
      {"none", unary<is_none>},
      {"string", unary<is_string>},
      {"number", unary<is_number>},
      {"integer", unary<is_integer>},
      {"float", unary<is_float>},
      {"boolean", unary<is_boolean>},
      {"true", unary<is_true>},
      {"false", unary<is_false>},
      {"mapping", unary<is_mapping>},
      {"sequence", unary<is_sequence>},
      {"iterable", unary<is_iterable>},
      {"callable", unary<is_callable>},
      {"escaped", unary<is_escaped>},
      {"lower", unary<is_lower_text>},
      {"upper", unary<is_upper_text>},
      {"odd", odd_test},
      {"even", even_test},
      {"divisibleby", divisible_test},
      {"sameas", same_test},
      {"filter", filter_test},
      {"test", test_test},
      {"in", compares<Comparison::kIn>},
      {"eq", compares<Comparison::kEqual>},
      {"equalto", compares<Comparison::kEqual>},
      {"==", compares<Comparison::kEqual>},
      {"ne", compares<Comparison::kNotEqual>},
      {"!=", compares<Comparison::kNotEqual>},
      {"lt", compares<Comparison::kLess>},
      {"lessthan", compares<Comparison::kLess>},
      {"<", compares<Comparison::kLess>},
      {"le", compares<Comparison::kLessEqual>},
      {"<=", compares<Comparison::kLessEqual>},
      {"gt", compares<Comparison::kGreater>},
      {"greaterthan", compares<Comparison::kGreater>},
      {">", compares<Comparison::kGreater>},
      {"ge", compares<Comparison::kGreaterEqual>},
      {">=", compares<Comparison::kGreaterEqual>},
  };
  const auto found = kTests.find(name);
  return found == kTests.end() ? nullptr : found->second;
}

}  // namespace moe4::jinja
