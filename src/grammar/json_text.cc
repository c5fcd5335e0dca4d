// Punctuation and free values.
#include "grammar/json_text.h"

#include "grammar/number_language.h"
#include "grammar/regex.h"
#include "grammar/string_language.h"

namespace moe4::grammar {

RuleId JsonRules::space() {
  if (!space_) {
    const std::string most = std::to_string(kMaxIndent);
    space_ = builder_.add_language(
        regex_language(" ?|\\n(?: {0," + most + "}|\\t{0," + most + "})", RegexMatch::kWhole));
  }
  return *space_;
}

RuleId JsonRules::any_string() {
  if (!any_string_) any_string_ = builder_.add_language(any_json_string());
  return *any_string_;
}

StateId JsonRules::open(StateId from, char bracket) {
  const StateId inside = builder_.add_state();
  builder_.add_call(builder_.add_text(from, {&bracket, 1}), space(), inside);
  return inside;
}

void JsonRules::close(StateId from, char bracket, StateId to) {
  const StateId at = builder_.add_state();
  builder_.add_call(from, space(), at);
  builder_.add_bytes(at, static_cast<uint8_t>(bracket), static_cast<uint8_t>(bracket), to);
}

StateId JsonRules::separator(StateId from, char text) { return open(from, text); }

StateId JsonRules::member(StateId from, RuleId key, RuleId value) {
  const StateId colon = builder_.add_state(), end = builder_.add_state();
  builder_.add_call(from, key, colon);
  builder_.add_call(separator(colon, ':'), value, end);
  return end;
}

RuleId JsonRules::any_value() {
  if (any_value_) return *any_value_;
  any_value_ = builder_.add_rule();
  const StateId start = builder_.start(*any_value_), end = builder_.add_state();
  builder_.accept(end);
  builder_.add_call(start, any_object(), end);
  builder_.add_call(start, any_array(), end);
  builder_.add_call(start, any_string(), end);
  builder_.add_call(start, builder_.add_language(any_number(false)), end);
  for (const char* word : {"true", "false", "null"}) {
    builder_.accept(builder_.add_text(start, word));
  }
  return *any_value_;
}

RuleId JsonRules::any_object() {
  if (any_object_) return *any_object_;
  any_object_ = builder_.add_rule();
  const StateId end = builder_.add_state();
  builder_.accept(end);
  const StateId inside = open(builder_.start(*any_object_), '{');
  builder_.add_bytes(inside, '}', '}', end);
  const StateId next = builder_.add_state();
  builder_.add_empty(inside, next);
  const StateId after = member(next, any_string(), any_value());
  builder_.add_empty(separator(after, ','), next);
  close(after, '}', end);
  return *any_object_;
}

RuleId JsonRules::any_array() {
  if (any_array_) return *any_array_;
  any_array_ = builder_.add_rule();
  const StateId end = builder_.add_state();
  builder_.accept(end);
  const StateId inside = open(builder_.start(*any_array_), '[');
  builder_.add_bytes(inside, ']', ']', end);
  const StateId next = builder_.add_state(), after = builder_.add_state();
  builder_.add_empty(inside, next);
  builder_.add_call(next, any_value(), after);
  builder_.add_empty(separator(after, ','), next);
  close(after, ']', end);
  return *any_array_;
}

// Objects and arrays may have white space where others do; their members are in order.
StateId JsonRules::value_way(StateId from, const nlohmann::ordered_json& value) {
  if (!value.is_structured()) {
    return builder_.add_text(from, value.dump(-1, ' ', false));
  }
  const char first = value.is_object() ? '{' : '[', last = value.is_object() ? '}' : ']';
  const StateId end = builder_.add_state();
  StateId at = open(from, first);
  if (value.empty()) {
    builder_.add_bytes(at, static_cast<uint8_t>(last), static_cast<uint8_t>(last), end);
    return end;
  }
  bool is_first = true;
  for (const auto& [key, element] : value.items()) {
    if (!is_first) at = separator(at, ',');
    is_first = false;
    if (value.is_object()) {
      at = separator(builder_.add_text(at, nlohmann::ordered_json(key).dump()), ':');
    }
    at = value_way(at, element);
  }
  close(at, last, end);
  return end;
}

RuleId JsonRules::literal(const nlohmann::ordered_json& value) {
  const RuleId rule = builder_.add_rule();
  builder_.accept(value_way(builder_.start(rule), value));
  return rule;
}

}  // namespace moe4::grammar
