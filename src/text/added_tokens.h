// Tokens that are cut out of the text before anything else happens to it, such as <|im_start|>.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/function_ref.h"

namespace moe4 {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  std::string pattern;  // what is looked for: the content, normalised if `normalized`
  bool special = false;
  bool single_word = false;  // only between non-word characters
  bool lstrip = false;       // swallows white space on its left
  bool rstrip = false;       // ... and right
  bool normalized = false;   // looked for in normalised text
};

/// Leftmost-longest search for a fixed set of strings.
class StringFinder {
 public:
  void add(std::string_view pattern, size_t token_index);
  bool empty() const { return nodes_.size() == 1; }
  struct Match {
    size_t end;
    size_t token_index;
  };
  /// The longest pattern that starts at `position`.
  std::optional<Match> match_at(std::string_view text, size_t position) const;

 private:
  // Children of a node form a list; 16 bytes a node bound what a hostile file can make us allocate.
  struct Node {
    char byte = 0;
    int32_t token_index = -1;  // -1: no pattern ends here
    uint32_t first_child = 0;  // 0: none, since the root is nobody's child
    uint32_t next_sibling = 0;
  };
  uint32_t child_of(uint32_t node, char byte) const;

  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::array<bool, 256> starts_{};  // bytes that begin a pattern
};

class AddedTokens {
 public:
  static constexpr size_t kMaxContentBytes = 1024;
  static constexpr size_t kMaxTotalBytes = 16 << 20;

  void add(const AddedToken& token);

  /// Cuts `text` at the tokens whose `normalized` flag is as given: `on_text` and `on_token` are
  /// called from left to right.
  void split(std::string_view text, bool normalized, FunctionRef<void(std::string_view)> on_text,
             FunctionRef<void(int32_t)> on_token) const;

  const AddedToken* find(int32_t id) const;
  const AddedToken* find(std::string_view content) const;
  int64_t id_limit() const { return id_limit_; }

 private:
  std::vector<AddedToken> tokens_;
  std::unordered_map<int32_t, size_t> index_of_id_;
  std::unordered_map<std::string, size_t> index_of_content_;
  std::array<StringFinder, 2> finders_;  // [normalized]
  int64_t id_limit_ = 0;
};

}  // namespace moe4
