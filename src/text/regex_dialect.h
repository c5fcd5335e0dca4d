// Translates the regular expressions of tokenizer.json (Oniguruma) into PCRE2's dialect.
#pragma once

#include <string>

namespace moe4 {

/// A PCRE2 pattern that matches what Oniguruma would. Constructs whose meaning differs between the
/// two (nested classes, intersections other than [A&&[B]], \b, \h, possessive {n,m}+, ...) are
/// refused with an Error(kBadInput) that names them; `file` is for that message.
std::string translate_regex(const std::string& oniguruma, const std::string& file);

}  // namespace moe4
