// The tokens of a vocabulary by their bytes: a trie in one array.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace moe4::grammar {

class TokenTrie {
 public:
  /// A prefix of tokens. Nodes lie in depth-first order, so that a subtree is a range.
  struct Node {
    uint32_t end;          // of its subtree in nodes()
    uint32_t first_token;  // of those in tokens() that are this prefix; the next node's ends them
    uint16_t depth;        // bytes
    uint8_t byte;          // the last one
  };

  /// Of the tokens whose bytes, `bytes[id]`, are `least` to `most` many; `least` is positive,
  /// `most` below 65,536.
  TokenTrie(const std::vector<std::string>& bytes, size_t least, size_t most);

  std::span<const Node> nodes() const { return std::span(nodes_).first(nodes_.size() - 1); }
  /// Ids, in the order of the nodes.
  std::span<const int32_t> tokens(size_t node) const {
    return std::span(tokens_).subspan(nodes_[node].first_token,
                                      nodes_[node + 1].first_token - nodes_[node].first_token);
  }
  /// Bytes of the longest.
  size_t depth() const { return depth_; }

 private:
  size_t depth_ = 0;
  std::vector<Node> nodes_;  // and one past the end
  std::vector<int32_t> tokens_;
};

/// Bytes of a tokenizer's tokens; of special ones special_token_text().
std::vector<std::string> grammar_token_bytes(const Tokenizer& tokenizer);

}  // namespace moe4::grammar
