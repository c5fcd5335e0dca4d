// A trie of the tokens' bytes, tried at every position where one of them could start.
#include "text/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "text/utf8.h"

namespace moe4 {
namespace {

// White_Space of Unicode.
bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// \w of UTS 18, by general category.
bool is_word(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return c == 0x200C || c == 0x200D;
  }
}

size_t previous_start(std::string_view text, size_t position) {
  do {
    --position;
  } while (position > 0 && (text[position] & 0xC0) == 0x80);
  return position;
}

bool word_before(std::string_view text, size_t position) {
  if (position == 0) return false;
  size_t start = previous_start(text, position);
  return is_word(next_code_point(text, &start));
}

bool word_after(std::string_view text, size_t position) {
  return position < text.size() && is_word(next_code_point(text, &position));
}

// Start of the white space that ends at `position`, not before `floor`.
size_t spaces_before(std::string_view text, size_t position, size_t floor) {
  while (position > floor) {
    const size_t start = previous_start(text, position);
    size_t cursor = start;
    if (!is_white_space(next_code_point(text, &cursor))) break;
    position = start;
  }
  return std::max(position, floor);
}

size_t spaces_after(std::string_view text, size_t position) {
  while (position < text.size()) {
    size_t cursor = position;
    if (!is_white_space(next_code_point(text, &cursor))) break;
    position = cursor;
  }
  return position;
}

}  // namespace

uint32_t StringFinder::child_of(uint32_t node, char byte) const {
  uint32_t child = nodes_[node].first_child;
  while (child != 0 && nodes_[child].byte != byte) child = nodes_[child].next_sibling;
  return child;
}

void StringFinder::add(std::string_view pattern, size_t token_index) {
  starts_[static_cast<unsigned char>(pattern[0])] = true;
  uint32_t node = 0;
  for (const char byte : pattern) {
    uint32_t child = child_of(node, byte);
    if (child == 0) {
      child = static_cast<uint32_t>(nodes_.size());
      nodes_.push_back({.byte = byte, .next_sibling = nodes_[node].first_child});
      nodes_[node].first_child = child;
    }
    node = child;
  }
  nodes_[node].token_index = static_cast<int32_t>(token_index);
}

std::optional<StringFinder::Match> StringFinder::match_at(std::string_view text,
                                                          size_t position) const {
  if (!starts_[static_cast<unsigned char>(text[position])]) return std::nullopt;
  std::optional<Match> longest;
  uint32_t node = 0;
  for (; position < text.size(); ++position) {
    node = child_of(node, text[position]);
    if (node == 0) break;
    if (nodes_[node].token_index >= 0) {
      longest = Match{position + 1, static_cast<size_t>(nodes_[node].token_index)};
    }
  }
  return longest;
}

void AddedTokens::add(const AddedToken& token) {
  const size_t index = tokens_.size();
  tokens_.push_back(token);
  index_of_id_.emplace(token.id, index);
  index_of_content_.emplace(token.content, index);
  id_limit_ = std::max<int64_t>(id_limit_, int64_t{token.id} + 1);
  finders_[token.normalized ? 1 : 0].add(token.pattern, index);
}

void AddedTokens::split(std::string_view text, bool normalized,
                        FunctionRef<void(std::string_view)> on_text,
                        FunctionRef<void(int32_t)> on_token) const {
  const StringFinder& finder = finders_[normalized ? 1 : 0];
  size_t done = 0;  // text before this has been handed out
  for (size_t position = 0; !finder.empty() && position < text.size();) {
    const auto match = finder.match_at(text, position);
    if (!match) {
      ++position;
      continue;
    }
    const AddedToken& token = tokens_[match->token_index];
    size_t begin = position;
    size_t end = match->end;
    position = match->end;
    if (token.single_word && (word_before(text, begin) || word_after(text, end))) continue;
    // A token to the left may have swallowed the spaces already.
    if (token.lstrip && begin > done) begin = spaces_before(text, begin, done);
    if (token.rstrip) end = spaces_after(text, end);
    if (done < begin) on_text(text.substr(done, begin - done));
    on_token(token.id);
    done = end;
  }
  if (done < text.size()) on_text(text.substr(done));
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto found = index_of_id_.find(id);
  return found == index_of_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = index_of_content_.find(std::string(content));
  return found == index_of_content_.end() ? nullptr : &tokens_[found->second];
}

}  // namespace moe4
