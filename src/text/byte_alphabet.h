// The printable alphabet in which byte-level BPE vocabularies spell bytes (GPT-2's
// byte_to_unicode).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace moe4 {

/// The character that stands for a byte: bytes that print as themselves, U+0100 and up in byte
/// order for the other 68.
char32_t byte_to_char(unsigned char byte);

/// How the alphabet spells bytes.
std::string spelling_of(std::string_view bytes);

/// The bytes that a token spells, or nothing when one of its characters stands for no byte.
std::optional<std::string> bytes_of_spelling(std::string_view valid_utf8);

}  // namespace moe4
