// The chat page as it is built into the program.
#pragma once

#include <string_view>

namespace moe4::server {

/// HTML in UTF-8, for GET /. It asks for v1/chat/completions, v1/models, props and plan, relative
/// to where it lies.
std::string_view chat_page();

}  // namespace moe4::server
