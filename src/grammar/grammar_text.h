// Texts with special tokens in them, as grammars have them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace moe4 {

/// `text` as grammars have it: each of `tags` that is a special token spelled as one.
std::string grammar_text(const Tokenizer& tokenizer, const std::vector<std::string>& tags,
                         std::string_view text);

}  // namespace moe4
