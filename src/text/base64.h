// Base64 as files of tokens use it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace moe4 {

/// Nothing for an empty text and for whatever is not base64 with its padding.
std::optional<std::string> decode_base64(std::string_view text);

}  // namespace moe4
