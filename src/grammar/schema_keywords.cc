// Keywords of a JSON schema as alternatives.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "grammar/number_language.h"
#include "grammar/regex.h"
#include "grammar/schema_form.h"
#include "grammar/string_language.h"

namespace moe4::grammar {
namespace {

// They say something to people or tools, and restrict nothing.
constexpr std::array kAnnotations = {
    "title",       "description",     "default",          "examples",      "example",
    "deprecated",  "readOnly",        "writeOnly",        "$schema",       "$id",
    "id",          "$comment",        "$anchor",          "$vocabulary",   "$defs",
    "definitions", "contentEncoding", "contentMediaType", "contentSchema", "$dynamicAnchor"};

constexpr std::array kKnown = {"type",
                               "enum",
                               "const",
                               "$ref",
                               "allOf",
                               "anyOf",
                               "oneOf",
                               "not",
                               "if",
                               "then",
                               "else",
                               "minimum",
                               "maximum",
                               "exclusiveMinimum",
                               "exclusiveMaximum",
                               "multipleOf",
                               "minLength",
                               "maxLength",
                               "pattern",
                               "format",
                               "items",
                               "prefixItems",
                               "additionalItems",
                               "minItems",
                               "maxItems",
                               "uniqueItems",
                               "contains",
                               "minContains",
                               "unevaluatedItems",
                               "properties",
                               "patternProperties",
                               "additionalProperties",
                               "required",
                               "propertyNames",
                               "minProperties",
                               "maxProperties",
                               "unevaluatedProperties",
                               "dependentRequired",
                               "dependentSchemas",
                               "dependencies"};

template <typename Names>
bool is_one_of(const Names& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::optional<JsonKind> kind_named(const std::string& type) {
  if (type == "null") return JsonKind::kNull;
  if (type == "boolean") return JsonKind::kBoolean;
  if (type == "number" || type == "integer") return JsonKind::kNumber;
  if (type == "string") return JsonKind::kString;
  if (type == "array") return JsonKind::kArray;
  if (type == "object") return JsonKind::kObject;
  return std::nullopt;
}

Language share(Dfa dfa) { return std::make_shared<const Dfa>(std::move(dfa)); }

Language both_languages(const Language& a, const Language& b) {
  if (!a) return b;
  return share(intersect(*a, *b));
}

Alternative& of_kind(std::vector<Alternative>& forms, JsonKind kind) {
  return forms[static_cast<size_t>(kind)];
}

// All types, each without restrictions, in the order of JsonKind.
std::vector<Alternative> everything() {
  std::vector<Alternative> forms;
  for (int kind = 0; kind <= static_cast<int>(JsonKind::kObject); ++kind) {
    forms.push_back({.kind = static_cast<JsonKind>(kind)});
  }
  return forms;
}

// In-place applicators: what they evaluate is not known to unevaluatedProperties here.
bool has_applicator(const SchemaJson& schema) {
  for (const char* keyword : {"$ref", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas",
                              "dependencies", "contains"}) {
    if (schema.contains(keyword)) return true;
  }
  return false;
}

}  // namespace

const SchemaJson& SchemaForms::checked(const SchemaJson& schema, const char* keyword, bool good,
                                       const char* expected) const {
  const SchemaJson& value = schema[keyword];
  if (!good) {
    document_.fail(schema, keyword,
                   fmt::format("expected {}, found {}", expected, printable(value.dump(), 60)));
  }
  return value;
}

int64_t SchemaForms::count(const SchemaJson& schema, const char* keyword) const {
  constexpr double kMost = 1e15;
  const SchemaJson& value = schema[keyword];
  const bool good = value.is_number() && value.get<double>() >= 0 && value.get<double>() <= kMost &&
                    value.get<double>() == static_cast<double>(value.get<int64_t>());
  return checked(schema, keyword, good, "a whole number from 0").get<int64_t>();
}

Slot SchemaForms::slot(const SchemaJson& schema) const {
  if (schema.is_boolean()) return {.is_never = !schema.get<bool>()};
  if (schema.is_object() && schema.empty()) return {};
  return {.all = {{document_.id(schema), false}}};
}

SchemaForms::Forms SchemaForms::compute(const SchemaJson& schema) {
  if (schema.is_boolean()) return schema.get<bool>() ? everything() : Forms();
  if (!schema.is_object()) {
    document_.fail(schema, "", fmt::format("expected a schema, found {}", schema.type_name()));
  }
  if (document_.ref_stands_alone() && schema.contains("$ref")) {
    const SchemaJson& ref = checked(schema, "$ref", schema["$ref"].is_string(), "a text");
    return forms(document_.resolve(schema, ref.get<std::string>()));
  }
  for (const auto& [keyword, value] : schema.items()) {
    if (is_one_of(kAnnotations, keyword) || is_one_of(kKnown, keyword)) continue;
    if (keyword.starts_with("x-")) continue;  // OpenAPI's extensions
    document_.fail(schema, keyword, "this keyword is not supported");
  }
  Forms result = keywords(schema);
  const auto list = [&](const char* keyword) -> const SchemaJson& {
    const SchemaJson& value = schema[keyword];
    return checked(schema, keyword, value.is_array() && !value.empty(), "a list of schemas");
  };
  if (schema.contains("enum")) {
    const SchemaJson& values = checked(schema, "enum", schema["enum"].is_array(), "a list");
    std::vector<const SchemaJson*> given;
    for (const SchemaJson& value : values) given.push_back(&value);
    result = intersect(result, literal_forms(given));
  }
  if (schema.contains("const")) result = intersect(result, literal_forms({&schema["const"]}));
  if (schema.contains("$ref")) {
    const SchemaJson& ref = checked(schema, "$ref", schema["$ref"].is_string(), "a text");
    result = intersect(result, forms(document_.resolve(schema, ref.get<std::string>())));
  }
  if (schema.contains("allOf")) {
    for (const SchemaJson& part : list("allOf")) result = intersect(result, forms(part));
  }
  if (schema.contains("anyOf")) {
    Forms any;
    for (const SchemaJson& part : list("anyOf")) any = unite(std::move(any), forms(part));
    result = intersect(result, any);
  }
  if (schema.contains("oneOf")) result = intersect(result, one_of(schema, list("oneOf")));
  const auto opposite = [&](const char* keyword) {
    const std::optional<Forms> negated = negate(forms(schema[keyword]));
    if (!negated) {
      document_.fail(schema, keyword, "the opposite of this schema cannot be expressed exactly");
    }
    return *negated;
  };
  if (schema.contains("not")) result = intersect(result, opposite("not"));
  if (schema.contains("if")) {
    Forms branches;
    if (schema.contains("then") || schema.contains("else")) {
      const Forms yes = forms(schema["if"]);
      branches = schema.contains("then") ? intersect(yes, forms(schema["then"])) : yes;
      const Forms no = opposite("if");
      branches = unite(std::move(branches),
                       schema.contains("else") ? intersect(no, forms(schema["else"])) : no);
      result = intersect(result, branches);
    }
  }
  for (const char* keyword : {"dependentRequired", "dependentSchemas", "dependencies"}) {
    if (schema.contains(keyword)) result = dependencies(schema, keyword, std::move(result));
  }
  std::erase_if(result, [&](const Alternative& a) {
    return (a.values && a.values->is_empty()) || (a.content && a.content->is_empty()) ||
           (a.max && *a.max < a.min);
  });
  return result;
}

// Those that are about one type each.
SchemaForms::Forms SchemaForms::keywords(const SchemaJson& schema) {
  Forms result = everything();
  std::vector<bool> wanted(result.size(), !schema.contains("type"));
  bool is_integer = false;
  if (schema.contains("type")) {
    const SchemaJson& type = schema["type"];
    SchemaJson types = SchemaJson::array({type});
    if (type.is_array()) types = type;
    bool has_number = false;
    for (const SchemaJson& name : types) {
      const auto kind = name.is_string() ? kind_named(name.get<std::string>()) : std::nullopt;
      checked(schema, "type", kind.has_value(),
              "null, boolean, integer, number, string, array, object, or a list of them");
      wanted[static_cast<size_t>(*kind)] = true;
      is_integer = is_integer || name == "integer";
      has_number = has_number || name == "number";
    }
    is_integer = is_integer && !has_number;
  }
  if (is_integer) of_kind(result, JsonKind::kNumber).is_integer = true;
  number_keywords(schema, of_kind(result, JsonKind::kNumber));
  string_keywords(schema, of_kind(result, JsonKind::kString));
  array_keywords(schema, of_kind(result, JsonKind::kArray));
  object_keywords(schema, of_kind(result, JsonKind::kObject));
  if (schema.contains("format")) {
    const SchemaJson& value = checked(schema, "format", schema["format"].is_string(), "a text");
    const auto name = value.get<std::string>();
    const bool is_numeric =
        name == "int32" || name == "int64" || name == "float" || name == "double";
    if (!is_numeric && format_kind(name) == FormatKind::kUnknown) {
      document_.fail(schema, "format", fmt::format("'{}' is not known", printable(name)));
    }
  }
  for (size_t i = result.size(); i-- > 0;) {
    if (!wanted[i]) result.erase(result.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return result;
}

void SchemaForms::number_keywords(const SchemaJson& schema, Alternative& number) {
  const auto bound = [&](const char* keyword, const auto& make) {
    if (!schema.contains(keyword)) return;
    const SchemaJson& value = checked(schema, keyword, schema[keyword].is_number(), "a number");
    const std::optional<Decimal> decimal = parse_decimal(value.dump());
    checked(schema, keyword, decimal.has_value(), "a number of common size");
    try {
      const Language own = language(fmt::format("number {} {}", keyword, decimal->text()),
                                    [&] { return make(*decimal); });
      number.values = both_languages(number.values, own);
    } catch (const TooComplex& error) {
      document_.fail(schema, keyword, error.what());
    }
  };
  bound("minimum", [](const Decimal& d) { return numbers_from(d, false); });
  bound("exclusiveMinimum", [](const Decimal& d) { return numbers_from(d, true); });
  bound("maximum", [](const Decimal& d) { return numbers_up_to(d, false); });
  bound("exclusiveMaximum", [](const Decimal& d) { return numbers_up_to(d, true); });
  if (schema.contains("multipleOf")) {
    checked(schema, "multipleOf",
            schema["multipleOf"].is_number() && schema["multipleOf"].get<double>() > 0,
            "a number above 0");
    bound("multipleOf", [](const Decimal& d) { return multiples_of(d); });
  }
  if (schema.contains("format") && number.is_integer) {
    const auto range = [&](const std::string& most, const std::string& least) {
      number.values = both_languages(
          number.values, language("format " + most, [&] {
            return grammar::intersect(numbers_up_to({.integer = most}, false),
                                      numbers_from({.negative = true, .integer = least}, false));
          }));
    };
    if (schema["format"] == "int32") range("2147483647", "2147483648");
    if (schema["format"] == "int64") range("9223372036854775807", "9223372036854775808");
  }
  if (number.is_integer && number.values) {
    number.values = both_languages(number.values, integers());
  }
}

void SchemaForms::string_keywords(const SchemaJson& schema, Alternative& string) {
  const auto restrict = [&](const char* keyword, const std::string& key,
                            const std::function<Dfa()>& make) {
    try {
      string.content = both_languages(string.content, language(key, make));
    } catch (const TooComplex& error) {
      document_.fail(schema, keyword, std::string("too complex: ") + error.what());
    } catch (const Error& error) {
      document_.fail(schema, keyword, error.what());
    }
  };
  const int64_t min = schema.contains("minLength") ? count(schema, "minLength") : 0;
  std::optional<int64_t> max;
  if (schema.contains("maxLength")) max = count(schema, "maxLength");
  if (min > 0 || max) {
    restrict(max ? "maxLength" : "minLength",
             fmt::format("length {} {}", min, max ? std::to_string(*max) : ""),
             [&] { return text_of_length(min, max); });
  }
  if (schema.contains("pattern")) {
    const SchemaJson& value = checked(schema, "pattern", schema["pattern"].is_string(), "a text");
    const auto pattern = value.get<std::string>();
    restrict("pattern", "pattern " + pattern, [&] {
      return grammar::intersect(regex_language(pattern, RegexMatch::kSearch), any_text());
    });
  }
  if (schema.contains("format") && schema["format"].is_string()) {
    const auto name = schema["format"].get<std::string>();
    if (format_kind(name) == FormatKind::kLanguage) {
      restrict("format", "format " + name, [&] { return format_language(name); });
    }
  }
}

void SchemaForms::array_keywords(const SchemaJson& schema, Alternative& array) {
  const char* rest = "items";
  const auto add_prefix = [&](const char* keyword) {
    checked(schema, keyword, schema[keyword].is_array(), "a list of schemas");
    for (const SchemaJson& item : schema[keyword]) array.prefix.push_back(slot(item));
  };
  if (schema.contains("prefixItems")) add_prefix("prefixItems");
  if (schema.contains("items") && schema["items"].is_array()) {  // before 2020-12
    add_prefix("items");
    rest = "additionalItems";
  }
  if (!schema.contains(rest) && schema.contains("unevaluatedItems")) {
    if (has_applicator(schema)) {
      document_.fail(schema, "unevaluatedItems",
                     "not supported beside allOf, anyOf, $ref and the like; use items");
    }
    rest = "unevaluatedItems";
  }
  if (schema.contains(rest)) array.rest = slot(schema[rest]);
  if (schema.contains("minItems")) array.min = count(schema, "minItems");
  if (schema.contains("maxItems")) array.max = count(schema, "maxItems");
  if (schema.contains("uniqueItems")) {
    const SchemaJson& value =
        checked(schema, "uniqueItems", schema["uniqueItems"].is_boolean(), "true or false");
    if (value.get<bool>()) array.unique = document_.id(schema);
  }
  if (schema.contains("contains")) {
    const int64_t min = schema.contains("minContains") ? count(schema, "minContains") : 1;
    if (min > 0) {
      array.contains = {
          .item = slot(schema["contains"]), .min = min, .schema = document_.id(schema)};
    }
  }
  array.counted = document_.id(schema);
}

void SchemaForms::object_keywords(const SchemaJson& schema, Alternative& object) {
  MemberRules rules;
  const auto object_of = [&](const char* keyword) -> const SchemaJson& {
    return checked(schema, keyword, schema[keyword].is_object(), "an object of schemas");
  };
  if (schema.contains("properties")) {
    for (const auto& [name, value] : object_of("properties").items()) {
      rules.properties.emplace_back(name, slot(value));
    }
  }
  if (schema.contains("patternProperties")) {
    const SchemaJson& patterns = object_of("patternProperties");
    for (const auto& [pattern, value] : patterns.items()) {
      try {
        const std::string& text = pattern;
        rules.patterns.push_back(
            {language("keys " + text, [&] { return regex_language(text, RegexMatch::kSearch); }),
             slot(value)});
      } catch (const TooComplex& error) {
        document_.fail(patterns, pattern, std::string("too complex: ") + error.what());
      } catch (const Error& error) {
        document_.fail(patterns, pattern, error.what());
      }
    }
  }
  const char* additional = "additionalProperties";
  if (!schema.contains(additional) && schema.contains("unevaluatedProperties")) {
    if (has_applicator(schema)) {
      document_.fail(
          schema, "unevaluatedProperties",
          "not supported beside allOf, anyOf, $ref and the like; use additionalProperties");
    }
    additional = "unevaluatedProperties";
  }
  if (schema.contains(additional)) rules.additional = slot(schema[additional]);
  if (!rules.properties.empty() || !rules.patterns.empty() || !rules.additional.is_any()) {
    object.members.push_back(std::move(rules));
  }
  if (schema.contains("required")) {
    checked(schema, "required", schema["required"].is_array(), "a list of names");
    for (const SchemaJson& name : schema["required"]) {
      checked(schema, "required", name.is_string(), "a list of names");
      const auto text = name.get<std::string>();
      if (!is_one_of(object.required, text)) object.required.push_back(text);
    }
  }
  if (schema.contains("propertyNames")) object.names = slot(schema["propertyNames"]);
  if (schema.contains("minProperties")) object.min = count(schema, "minProperties");
  if (schema.contains("maxProperties")) object.max = count(schema, "maxProperties");
  object.counted = document_.id(schema);
}

// For every name: it is absent, or what depends on it holds.
SchemaForms::Forms SchemaForms::dependencies(const SchemaJson& schema, const std::string& keyword,
                                             Forms result) {
  const SchemaJson& all = schema[keyword];
  checked(schema, keyword.c_str(), all.is_object(), "an object");
  for (const auto& [name, needed] : all.items()) {
    Forms absent = everything(), present = everything();
    of_kind(absent, JsonKind::kObject)
        .members.push_back({.properties = {{name, {.is_never = true}}}});
    of_kind(present, JsonKind::kObject).required = {name};
    present = {of_kind(present, JsonKind::kObject)};
    if (needed.is_array()) {
      for (const SchemaJson& other : needed) {
        checked(schema, keyword.c_str(), other.is_string(), "lists of names");
        const auto text = other.get<std::string>();
        if (!is_one_of(present.front().required, text)) present.front().required.push_back(text);
      }
    } else {
      present = intersect(present, forms(needed));
    }
    result = intersect(result, unite(std::move(absent), present));
  }
  return result;
}

// Values as they are: texts and numbers by language, arrays and objects by themselves.
SchemaForms::Forms SchemaForms::literal_forms(const std::vector<const SchemaJson*>& values) {
  Forms result;
  std::vector<std::string_view> texts;
  Dfa integers, fractions;
  Alternative boolean{.kind = JsonKind::kBoolean, .allows_false = false, .allows_true = false};
  Alternative arrays{.kind = JsonKind::kArray}, objects{.kind = JsonKind::kObject};
  bool has_null = false;
  for (const SchemaJson* value : values) {
    if (value->is_null()) has_null = true;
    if (value->is_boolean())
      (value->get<bool>() ? boolean.allows_true : boolean.allows_false) = true;
    if (value->is_string()) texts.emplace_back(value->get_ref<const std::string&>());
    if (value->is_array()) arrays.literals.push_back(value);
    if (value->is_object()) objects.literals.push_back(value);
    if (value->is_number()) {
      const std::optional<Decimal> number = parse_decimal(value->dump());
      if (!number) document_.fail(*value, "", "expected a number of common size");
      Dfa& set = number->fraction.empty() ? integers : fractions;
      set = grammar::unite(set, number_equal_to(*number));
    }
  }
  if (has_null) result.push_back({.kind = JsonKind::kNull});
  if (boolean.allows_false || boolean.allows_true) result.push_back(boolean);
  if (!integers.is_empty()) {
    result.push_back({.kind = JsonKind::kNumber, .values = share(integers), .is_integer = true});
  }
  if (!fractions.is_empty()) {
    result.push_back({.kind = JsonKind::kNumber, .values = share(fractions)});
  }
  if (!texts.empty()) {
    result.push_back({.kind = JsonKind::kString, .content = share(literal_language(texts))});
  }
  if (!arrays.literals.empty()) result.push_back(std::move(arrays));
  if (!objects.literals.empty()) result.push_back(std::move(objects));
  return result;
}

// As anyOf where no value fulfils two; else each without the others, if that can be said.
SchemaForms::Forms SchemaForms::one_of(const SchemaJson& schema, const SchemaJson& list) {
  const auto are_apart = [&](const Forms& a, const Forms& b) {
    const Forms common = intersect(a, b);
    return std::all_of(common.begin(), common.end(),
                       [&](const Alternative& x) { return is_empty(x); });
  };
  Forms result;
  for (size_t i = 0; i < list.size(); ++i) {
    Forms own = forms(list[i]);
    for (size_t j = 0; j < list.size(); ++j) {
      const Forms& other = forms(list[j]);
      if (j == i || are_apart(own, other)) continue;
      const std::optional<Forms> negated = negate(other);
      if (!negated) {
        document_.fail(schema, "oneOf",
                       fmt::format("a value may fulfil both {} and {}: say what tells them apart, "
                                   "or use anyOf",
                                   i, j));
      }
      own = intersect(own, *negated);
    }
    result = unite(std::move(result), own);
  }
  return result;
}

}  // namespace moe4::grammar
