// JSON from clients: bounded, with the order of members kept.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace moe4::server {

/// Objects keep the order in which they were written: of schemas and of tools' arguments it
/// matters. Members are found by a search from the first.
using JsonValue = nlohmann::ordered_json;

/// Parses a whole document in linear time. Throws ApiError(400) for bad syntax, bytes that are not
/// UTF-8, a member named twice, a number out of range and nesting deeper than 100 levels.
JsonValue parse_body(const std::string& text);

/// A value as text. Never throws for what it holds.
std::string dump(const JsonValue& value);

/// "a string", "an object": the type of a value for messages.
const char* type_words(const JsonValue& value);

}  // namespace moe4::server
