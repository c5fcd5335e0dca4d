// Types out of JSON schemas, and text as a value of such a type.
#include "dialog/tool_schemas.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "dialog/json_scanner.h"
#include "dialog/text_reader.h"

namespace moe4 {
namespace {

using nlohmann::json;

constexpr int kMaxNesting = 16;
constexpr size_t kMaxTypes = 32;

const json* find(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

void add_type(const std::string& type, std::vector<std::string>* types) {
  if (types->size() < kMaxTypes && std::ranges::find(*types, type) == types->end())
    types->push_back(type);
}

void add_type_of(const json& value, std::vector<std::string>* types) {
  if (value.is_number_integer()) {
    add_type("integer", types);
  } else {
    add_type(value.type_name(), types);  // nlohmann's names are JSON schema's
  }
}

// "#/$defs/Point" in the schema that it stands in.
const json* referred(const json& root, const std::string& reference) {
  if (!reference.starts_with("#/")) return nullptr;
  try {
    const json::json_pointer place(reference.substr(1));
    return root.contains(place) ? &root[place] : nullptr;
  } catch (const json::exception&) {
    return nullptr;
  }
}

void collect_types(const json& schema, const json& root, int nesting,
                   std::vector<std::string>* types) {
  if (nesting > kMaxNesting || types->size() >= kMaxTypes) return;
  if (const json* type = find(schema, "type")) {
    if (type->is_string()) add_type(type->get<std::string>(), types);
    if (type->is_array()) {
      for (const json& one : *type) {
        if (one.is_string()) add_type(one.get<std::string>(), types);
      }
    }
    return;
  }
  if (const json* values = find(schema, "enum"); values != nullptr && values->is_array()) {
    for (const json& value : *values) add_type_of(value, types);
    return;
  }
  if (const json* value = find(schema, "const")) return add_type_of(*value, types);
  for (const char* key : {"anyOf", "oneOf", "allOf"}) {
    if (const json* schemas = find(schema, key); schemas != nullptr && schemas->is_array()) {
      for (const json& one : *schemas) collect_types(one, root, nesting + 1, types);
    }
  }
  if (const json* reference = find(schema, "$ref");
      reference != nullptr && reference->is_string()) {
    if (const json* target = referred(root, reference->get<std::string>()))
      collect_types(*target, root, nesting + 1, types);
  }
}

std::string_view trimmed(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kDialogSpace), text.size()));
  return text.substr(0, text.find_last_not_of(kDialogSpace) + 1);
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

// 5, and 5.0 as 5.
std::optional<std::string> as_integer(std::string_view text) {
  std::optional<std::string> number = as_json(text, "-0123456789");
  if (!number) return std::nullopt;
  const size_t end = std::min(number->find_first_not_of("-0123456789"), number->size());
  if (end < number->size() &&
      (number->at(end) != '.' || number->find_first_not_of('0', end + 1) != std::string::npos))
    return std::nullopt;
  return number->substr(0, end);
}

std::optional<std::string> as_type(const std::string& type, std::string_view text) {
  if (type == "integer") return as_integer(text);
  if (type == "number") return as_json(text, "-0123456789");
  if (type == "object") return as_json(text, "{");
  if (type == "array") return as_json(text, "[");
  if (type == "boolean") {
    const std::string word = lower(trimmed(text));
    if (word == "true" || word == "false") return word;
  }
  return std::nullopt;
}

bool is_null(std::string_view text) {
  const std::string word = lower(trimmed(text));
  return word == "null" || word == "none";
}

}  // namespace

ToolSchemas::ToolSchemas(const json* tool_list) {
  if (tool_list == nullptr || !tool_list->is_array()) return;
  for (const json& tool : *tool_list) {
    const json* function = find(tool, "function");
    if (function == nullptr) function = &tool;  // /v1/responses has no level of its own for it
    const json* name = find(*function, "name");
    const json* parameters = find(*function, "parameters");
    const json* properties = parameters != nullptr ? find(*parameters, "properties") : nullptr;
    if (name == nullptr || !name->is_string() || properties == nullptr || !properties->is_object())
      continue;
    auto& of_tool = types_[name->get<std::string>()];
    for (const auto& [key, schema] : properties->items())
      collect_types(schema, *parameters, 0, &of_tool[key]);
  }
}

std::string ToolSchemas::to_json(const std::string& tool, const std::string& parameter,
                                 std::string_view text, Unknown unknown) const {
  const Types* types = nullptr;
  if (const auto of_tool = types_.find(tool); of_tool != types_.end()) {
    if (const auto found = of_tool->second.find(parameter); found != of_tool->second.end())
      types = &found->second;
  }
  if (types == nullptr || types->empty()) {
    if (unknown == Unknown::kJsonIfItIs) {
      if (auto value = as_json(text, "{[\"-0123456789tfn")) return *value;
    }
    return json_quoted(text);
  }
  const auto allows = [types](const char* type) {
    return std::ranges::find(*types, type) != types->end();
  };
  // Templates write null as Python's None; where no string is allowed it can mean nothing else.
  if (is_null(text) && (allows("null") || !allows("string"))) return "null";
  for (const std::string& type : *types) {
    if (type == "string") break;
    if (auto value = as_type(type, text)) return *value;
  }
  return json_quoted(text);
}

}  // namespace moe4
