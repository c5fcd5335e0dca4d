// JSON strings: languages of their content, and of their spelling between quotes.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "grammar/dfa.h"

namespace moe4::grammar {

/// Any text in UTF-8.
Dfa any_text();
/// Texts of `min` to `max` code points.
Dfa text_of_length(int64_t min, std::optional<int64_t> max);

enum class FormatKind {
  kLanguage,    ///< format_language() says which texts
  kAnnotation,  ///< a hint for people or databases ("password"), which restricts nothing
  kUnknown,
};
/// Of JSON schema's `format` of strings: date-time, date, time, duration, email, hostname, ipv4,
/// ipv6, uuid, uri, uri-reference, json-pointer, relative-json-pointer, regex.
FormatKind format_kind(std::string_view name);
/// The texts of a format; stricter than its RFC where that is no regular language or where readers
/// differ, never wider.
Dfa format_language(std::string_view name);

/// Quotes included: any JSON string, every escape allowed but for broken surrogates.
Dfa any_json_string();
/// Quotes included: strings whose content is of `content`. A character has one spelling: itself,
/// or where it must be escaped the short escape if there is one, else \u00xx.
Dfa json_spelling(const Dfa& content);

}  // namespace moe4::grammar
