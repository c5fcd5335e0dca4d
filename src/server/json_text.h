// Pieces of JSON written by hand, where a document for every token would cost more than the token.
#pragma once

#include <string>
#include <string_view>

namespace moe4::server {

/// Appends `text` as a JSON string, quotes included. Bytes that are not UTF-8 become U+FFFD.
void append_json_string(std::string& out, std::string_view text);

/// Appends a number as JSON; what is not finite as null.
void append_json_number(std::string& out, double value);

}  // namespace moe4::server
