// Finds tags that are tokens.
#include "grammar/grammar_text.h"

#include <optional>

#include "grammar/grammar.h"

namespace moe4 {

std::string grammar_text(const Tokenizer& tokenizer, const std::vector<std::string>& tags,
                         std::string_view text) {
  std::string spelled;
  while (!text.empty()) {
    size_t length = 1;
    for (const std::string& tag : tags) {
      const auto id = text.starts_with(tag) ? tokenizer.token_id(tag) : std::nullopt;
      if (!id || !tokenizer.is_special(*id)) continue;
      length = tag.size();
      break;
    }
    const std::string_view piece = text.substr(0, length);
    spelled += length > 1 ? special_token_text(piece) : std::string(piece);
    text.remove_prefix(length);
  }
  return spelled;
}

}  // namespace moe4
