// UTF-8 in and out: repair of foreign bytes, and code points of text that is known to be valid.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace moe4 {

/// Appends `bytes` to `out`, each maximal broken part replaced by one U+FFFD (as Python's
/// errors="replace" and Rust's from_utf8_lossy do). When not `final`, a character that is cut off
/// at the end is left out. Returns how many bytes were used up.
size_t append_utf8_lossy(std::string_view bytes, bool final, std::string* out);

/// The whole text, repaired.
std::string utf8_lossy(std::string_view bytes);

/// The code point at `*position` of valid UTF-8; moves `*position` past it.
char32_t next_code_point(std::string_view valid, size_t* position);

void append_code_point(char32_t code_point, std::string* out);

}  // namespace moe4
