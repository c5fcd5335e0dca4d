// Tables of the fields of requests: one says how a field is read and what its schema is, so that
// parser and OpenAPI document cannot differ.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "server/api_error.h"
#include "server/json_body.h"

namespace moe4::server {

/// A field of a request that is read into a T.
template <typename T>
struct Field {
  std::string name;
  JsonValue schema;  ///< as OpenAPI 3.1 has it, with a description
  bool required = false;
  bool listed = true;  ///< in the OpenAPI document
  /// Reads a value that is not null. Throws ApiError(400) naming the field.
  std::function<void(const JsonValue& value, T& request)> read;

  /// A field of a base is one of what is derived from it.
  template <typename Derived>
  requires(std::is_base_of_v<T, Derived> && !std::is_same_v<T, Derived>) operator Field<Derived>()
      const {
    return {.name = name, .schema = schema, .required = required, .listed = listed, .read = read};
  }
};

template <typename T>
using Fields = std::vector<Field<T>>;

[[noreturn]] void refuse_field(const std::string& name, const std::string& what);

/// Typed values; throw ApiError(400) naming `name`.
bool read_boolean(const JsonValue& value, const std::string& name);
std::string read_string(const JsonValue& value, const std::string& name);
/// 2.0 is a whole number too.
int64_t read_integer(const JsonValue& value, const std::string& name, int64_t minimum,
                     int64_t maximum);
double read_number(const JsonValue& value, const std::string& name, double minimum, double maximum);
const JsonValue& read_object(const JsonValue& value, const std::string& name);
const JsonValue& read_array(const JsonValue& value, const std::string& name);

template <typename T, typename Member>
Field<T> boolean_field(const char* name, Member T::*member, const char* description) {
  return {.name = name,
          .schema = {{"type", {"boolean", "null"}}, {"description", description}},
          .read = [=](const JsonValue& value, T& request) {
            request.*member = read_boolean(value, name);
          }};
}

template <typename T, typename Member>
Field<T> integer_field(const char* name, Member T::*member, int64_t minimum, int64_t maximum,
                       const char* description) {
  return {.name = name,
          .schema = {{"type", {"integer", "null"}},
                     {"minimum", minimum},
                     {"maximum", maximum},
                     {"description", description}},
          .read = [=](const JsonValue& value, T& request) {
            request.*member = read_integer(value, name, minimum, maximum);
          }};
}

template <typename T, typename Member>
Field<T> number_field(const char* name, Member T::*member, double minimum, double maximum,
                      const char* description) {
  return {.name = name,
          .schema = {{"type", {"number", "null"}},
                     {"minimum", minimum},
                     {"maximum", maximum},
                     {"description", description}},
          .read = [=](const JsonValue& value, T& request) {
            request.*member = static_cast<float>(read_number(value, name, minimum, maximum));
          }};
}

template <typename T, typename Member>
Field<T> string_field(const char* name, Member T::*member, const char* description) {
  return {.name = name,
          .schema = {{"type", {"string", "null"}}, {"description", description}},
          .read = [=](const JsonValue& value, T& request) {
            request.*member = read_string(value, name);
          }};
}

/// A field that is known and changes nothing.
template <typename T>
Field<T> ignored_field(const char* name, const char* description) {
  return {
      .name = name, .schema = {{"description", description}}, .read = [](const JsonValue&, T&) {}};
}

/// A field that asks for what moe4 does not do. `neutral` asks for nothing.
template <typename T>
Field<T> refused_field(const char* name, const JsonValue& neutral, const char* why) {
  return {.name = name, .listed = false, .read = [=](const JsonValue& value, T&) {
            if (value != neutral) refuse_field(name, why);
          }};
}

template <typename T>
Field<T> custom_field(const char* name, JsonValue schema,
                      std::function<void(const JsonValue&, T&)> read, const char* description,
                      bool required = false) {
  schema["description"] = description;
  return {.name = name, .schema = std::move(schema), .required = required, .read = std::move(read)};
}

/// The fields of a struct that T is derived from.
template <typename T, typename Base>
void append_fields(Fields<T>& fields, const Fields<Base>& of_base) {
  fields.insert(fields.end(), of_base.begin(), of_base.end());
}

/// Reads a request; names of members that are no field go to `unknown`. Throws ApiError(400).
template <typename T>
T read_request(const JsonValue& body, const Fields<T>& fields, std::vector<std::string>& unknown) {
  if (!body.is_object()) {
    throw ApiError(400, fmt::format("the body is {}: expected an object", type_words(body)));
  }
  T request;
  std::vector<bool> seen(fields.size());
  for (const auto& [name, value] : body.items()) {
    size_t i = 0;
    while (i < fields.size() && fields[i].name != name) ++i;
    if (i == fields.size()) {
      unknown.push_back(name);
      continue;
    }
    if (value.is_null()) continue;
    seen[i] = true;
    fields[i].read(value, request);
  }
  for (size_t i = 0; i < fields.size(); ++i) {
    if (fields[i].required && !seen[i]) refuse_field(fields[i].name, "the field is missing");
  }
  return request;
}

/// The schema of such a request.
template <typename T>
JsonValue schema_of(const Fields<T>& fields) {
  JsonValue properties = JsonValue::object(), required = JsonValue::array();
  for (const Field<T>& field : fields) {
    if (!field.listed) continue;
    properties[field.name] = field.schema;
    if (field.required) required.push_back(field.name);
  }
  JsonValue schema = {{"type", "object"}, {"properties", std::move(properties)}};
  if (!required.empty()) schema["required"] = std::move(required);
  return schema;
}

}  // namespace moe4::server
