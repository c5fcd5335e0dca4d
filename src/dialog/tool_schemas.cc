// Types out of JSON schemas, and text as a value of such a type.
#include "dialog/tool_schemas.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "dialog/json_scanner.h"
#include "dialog/text_reader.h"

namespace moe4 {
namespace {

using nlohmann::json;

constexpr size_t kMaxSchemas = 1024;  // of one value
constexpr size_t kMaxTypes = 32;

using Types = std::vector<std::string>;  // JSON schema's words
using Schemas = std::vector<const json*>;

const json* find(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

void add_type(const std::string& type, Types* types) {
  if (types->size() < kMaxTypes && std::ranges::find(*types, type) == types->end())
    types->push_back(type);
}

void add_type_of(const json& value, Types* types) {
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

// What is left of `open` without anyOf, oneOf, allOf and references: each schema once, which ends
// references in circles.
Schemas alternatives(Schemas open, const json& root) {
  std::ranges::reverse(open);  // the last is next
  Schemas found;
  std::set<const json*> seen;
  while (!open.empty() && seen.size() < kMaxSchemas) {
    const json* schema = open.back();
    open.pop_back();
    if (!seen.insert(schema).second) continue;
    Schemas inner;
    if (find(*schema, "type") == nullptr && find(*schema, "enum") == nullptr &&
        find(*schema, "const") == nullptr) {
      for (const char* key : {"anyOf", "oneOf", "allOf"}) {
        if (const json* schemas = find(*schema, key); schemas != nullptr && schemas->is_array()) {
          for (const json& one : *schemas) inner.push_back(&one);
        }
      }
      if (const json* reference = find(*schema, "$ref");
          reference != nullptr && reference->is_string()) {
        if (const json* target = referred(root, reference->get<std::string>()))
          inner.push_back(target);
      }
    }
    if (inner.empty()) found.push_back(schema);
    open.insert(open.end(), inner.rbegin(), inner.rend());
  }
  return found;
}

Types types_of(const Schemas& schemas) {
  Types types;
  for (const json* schema : schemas) {
    if (const json* type = find(*schema, "type")) {
      if (type->is_string()) add_type(type->get<std::string>(), &types);
      if (type->is_array()) {
        for (const json& one : *type) {
          if (one.is_string()) add_type(one.get<std::string>(), &types);
        }
      }
    } else if (const json* values = find(*schema, "enum");
               values != nullptr && values->is_array()) {
      for (const json& value : *values) add_type_of(value, &types);
    } else if (const json* value = find(*schema, "const")) {
      add_type_of(*value, &types);
    }
  }
  return types;
}

bool allows(const Types& types, std::string_view type) {
  return std::ranges::find(types, type) != types.end();
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

// The first of `types` that the text can be.
std::string typed(std::string_view text, const Types& types, ToolSchemas::Unknown unknown) {
  if (types.empty()) {
    if (unknown == ToolSchemas::Unknown::kJsonIfItIs) {
      if (auto value = as_json(text, "{[\"-0123456789tfn")) return *value;
    }
    return json_quoted(text);
  }
  // Templates write null as Python's None; where no string is allowed it can mean nothing else.
  if (is_null(text) && (allows(types, "null") || !allows(types, "string"))) return "null";
  for (const std::string& type : types) {
    if (type == "string") break;
    if (auto value = as_type(type, text)) return *value;
  }
  return json_quoted(text);
}

// The schemas of a list's items.
Schemas items_of(const Schemas& lists) {
  Schemas items;
  for (const json* schema : lists) {
    if (const json* one = find(*schema, "items")) items.push_back(one);
  }
  return items;
}

// The schemas of an object's values of this name.
Schemas property_of(const Schemas& objects, const std::string& name) {
  Schemas found;
  for (const json* schema : objects) {
    const json* properties = find(*schema, "properties");
    const json* property = properties != nullptr ? find(*properties, name.c_str()) : nullptr;
    if (property == nullptr) property = find(*schema, "additionalProperties");
    if (property != nullptr) found.push_back(property);
  }
  return found;
}

std::string value_json(const TaggedValue& value, const Schemas& given, const json& root);

std::string list_json(const std::vector<const TaggedValue*>& values, const Schemas& items,
                      const json& root) {
  std::string text;
  for (const TaggedValue* value : values)
    text += (text.empty() ? "" : ", ") + value_json(*value, items, root);
  return "[" + text + "]";
}

std::string object_json(const TaggedValue& object, const Schemas& schemas, const json& root) {
  std::vector<std::vector<const TaggedValue*>> members;  // by name, in the order of the names
  std::map<std::string_view, size_t> places;
  for (const TaggedValue& child : object.children) {
    const auto [place, is_new] = places.emplace(child.name, members.size());
    if (is_new) members.emplace_back();
    members[place->second].push_back(&child);
  }
  std::string text;
  for (const auto& values : members) {
    const std::string& name = values.front()->name;
    const Schemas property = alternatives(property_of(schemas, name), root);
    text += (text.empty() ? "" : ", ") + json_quoted(name) + ": ";
    if (values.size() == 1) {
      text += value_json(*values.front(), property, root);
    } else {
      const bool is_list = allows(types_of(property), "array");
      text += list_json(values, is_list ? items_of(property) : property, root);
    }
  }
  return "{" + text + "}";
}

std::string value_json(const TaggedValue& value, const Schemas& given, const json& root) {
  const Schemas schemas = alternatives(given, root);
  const Types types = types_of(schemas);
  if (value.children.empty()) {
    if (value.text.empty()) {
      for (const std::string& type : types) {
        if (type == "string") break;
        if (type == "array") return "[]";
        if (type == "object") return "{}";
      }
    }
    return typed(value.text, types, ToolSchemas::Unknown::kString);
  }
  const bool are_items = std::ranges::all_of(
      value.children, [](const TaggedValue& child) { return child.name == "item"; });
  if (!are_items || (!types.empty() && !allows(types, "array")))
    return object_json(value, schemas, root);
  std::vector<const TaggedValue*> items;
  for (const TaggedValue& child : value.children) items.push_back(&child);
  return list_json(items, alternatives(items_of(schemas), root), root);
}

}  // namespace

ToolSchemas::ToolSchemas(const json* tool_list) {
  if (tool_list == nullptr || !tool_list->is_array()) return;
  for (const json& tool : *tool_list) {
    const json* function = find(tool, "function");
    if (function == nullptr) function = &tool;  // /v1/responses has no level of its own for it
    const json* name = find(*function, "name");
    const json* parameters = find(*function, "parameters");
    if (name == nullptr || !name->is_string() || parameters == nullptr) continue;
    parameters_[name->get<std::string>()] = std::make_shared<const json>(*parameters);
  }
}

std::string ToolSchemas::to_json(const std::string& tool, const std::string& parameter,
                                 std::string_view text, Unknown unknown) const {
  const auto found = parameters_.find(tool);
  if (found == parameters_.end()) return typed(text, {}, unknown);
  const json& root = *found->second;
  return typed(text, types_of(alternatives(property_of({&root}, parameter), root)), unknown);
}

std::string ToolSchemas::to_json(const std::string& tool, const TaggedValue& parameter) const {
  const auto found = parameters_.find(tool);
  if (found == parameters_.end()) return value_json(parameter, {}, json());
  const json& root = *found->second;
  return value_json(parameter, property_of({&root}, parameter.name), root);
}

}  // namespace moe4
