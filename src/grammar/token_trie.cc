// Sorts tokens and lays their common prefixes out.
#include "grammar/token_trie.h"

#include <algorithm>

#include "grammar/grammar.h"

namespace moe4::grammar {

TokenTrie::TokenTrie(const std::vector<std::string>& bytes, size_t least, size_t most) {
  for (size_t id = 0; id < bytes.size(); ++id) {
    if (bytes[id].size() < least || bytes[id].size() > most) continue;
    tokens_.push_back(static_cast<int32_t>(id));
    depth_ = std::max(depth_, bytes[id].size());
  }
  const auto text = [&](int32_t id) -> const std::string& {
    return bytes[static_cast<size_t>(id)];
  };
  std::sort(tokens_.begin(), tokens_.end(), [&](int32_t a, int32_t b) {
    const int order = text(a).compare(text(b));
    return order != 0 ? order < 0 : a < b;
  });
  std::vector<uint32_t> open;  // nodes of the current prefix
  const auto close_to = [&](size_t depth) {
    for (; open.size() > depth; open.pop_back()) {
      nodes_[open.back()].end = static_cast<uint32_t>(nodes_.size());
    }
  };
  for (uint32_t i = 0; i < tokens_.size(); ++i) {
    const std::string& token = text(tokens_[i]);
    size_t shared = 0;
    if (i > 0) {
      const std::string& before = text(tokens_[i - 1]);
      const size_t most = std::min(before.size(), token.size());
      while (shared < most && before[shared] == token[shared]) ++shared;
    }
    close_to(shared);
    for (size_t depth = shared; depth < token.size(); ++depth) {
      open.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back({.end = 0,
                        .first_token = i,
                        .depth = static_cast<uint16_t>(depth + 1),
                        .byte = static_cast<uint8_t>(token[depth])});
    }
  }
  close_to(0);
  const auto count = static_cast<uint32_t>(tokens_.size());
  nodes_.push_back({.end = static_cast<uint32_t>(nodes_.size()), .first_token = count});
}

std::vector<std::string> grammar_token_bytes(const Tokenizer& tokenizer) {
  std::vector<std::string> bytes(static_cast<size_t>(tokenizer.vocab_size()));
  for (size_t id = 0; id < bytes.size(); ++id) {
    const auto token = static_cast<int32_t>(id);
    bytes[id] = tokenizer.token_bytes(token);
    if (tokenizer.is_special(token)) bytes[id] = special_token_text(bytes[id]);
  }
  return bytes;
}

}  // namespace moe4::grammar
