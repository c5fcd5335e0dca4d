// Which tokens of a vocabulary may come next under a grammar.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "grammar/grammar.h"
#include "grammar/stack_sets.h"
#include "grammar/token_trie.h"
#include "text/tokenizer.h"

namespace moe4 {

/// The tokens of a tokenizer, sorted for masks. Takes a moment to make at 250,000 tokens:
/// once a model, shared by all requests.
class Vocabulary {
 public:
  explicit Vocabulary(const Tokenizer& tokenizer);
  /// From the tokens' bytes; empty ones are never allowed.
  explicit Vocabulary(std::vector<std::string> bytes);

  /// Longer tokens cannot be chosen.
  static constexpr size_t kMaxTokenBytes = 1024;
  /// Tokens by length, up to so many bytes and the longer ones: states that only longer tokens tell
  /// apart share what the shorter ones may be.
  static constexpr std::array<size_t, 5> kLengths = {4, 8, 12, 16, 24};

  const std::vector<grammar::TokenTrie>& tries() const { return tries_; }
  const std::string& bytes(int32_t id) const { return bytes_[static_cast<size_t>(id)]; }
  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  /// 64-bit words of a mask.
  size_t mask_words() const { return (static_cast<size_t>(size()) + 63) / 64; }

 private:
  std::vector<std::string> bytes_;
  std::vector<grammar::TokenTrie> tries_;  // [kLengths + 1]
};

/// A grammar over a vocabulary, with the parts of masks that were computed so far. Thread-safe;
/// made once for a grammar that is used again.
class TokenMasks {
 public:
  /// What an automaton's state allows whatever is below it on the stack.
  struct Part {
    std::vector<uint64_t> bits;     // [mask_words()], or empty where `ids` has them
    std::vector<int32_t> ids;       // of a few tokens
    std::vector<uint32_t> returns;  // nodes of the tokens' trie where the state's rule has ended;
                                    // tokens that are longer depend on what is below
  };

  TokenMasks(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const Vocabulary> vocabulary);
  ~TokenMasks();

  const Grammar& grammar() const { return *grammar_; }
  const Vocabulary& vocabulary() const { return *vocabulary_; }
  /// For the tokens of one of the vocabulary's tries.
  std::shared_ptr<const Part> part(size_t trie, grammar::StateId state) const;

 private:
  Part compute(const grammar::TokenTrie& trie, grammar::StateId state) const;

  std::shared_ptr<const Grammar> grammar_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  std::vector<std::vector<grammar::StateId>> alike_;  // [tries]: the state whose part is a state's
  mutable std::mutex mutex_;                          // guards all below
  mutable grammar::StackSets stacks_;
  mutable std::vector<grammar::StackSets::Id> positions_;  // by depth of the walk
  mutable std::vector<std::unordered_map<grammar::StateId, std::shared_ptr<const Part>>> parts_;
  mutable size_t part_bytes_ = 0;
};

/// A text on its way through a grammar, token by token. Copyable: a copy goes on by itself.
class GrammarMatcher {
 public:
  explicit GrammarMatcher(std::shared_ptr<const TokenMasks> masks);

  /// Bit `id` of words [mask_words()]: whether the token may come next. End tokens are not in it;
  /// they may come where may_end().
  void fill_mask(std::span<uint64_t> words);
  /// Whether the text so far is complete.
  bool may_end() const { return stacks_.may_end(position_); }
  /// Whether it is, and nothing may follow.
  bool must_end() const { return position_ == grammar::StackSets::kEmpty; }
  /// Goes on by a token's bytes. False, and nothing changed, for one that the mask does not have.
  bool accept(int32_t token);

  const TokenMasks& masks() const { return *masks_; }

 private:
  void add(const grammar::TokenTrie& trie, const TokenMasks::Part& part,
           grammar::StackSets::Id below, std::span<uint64_t> words);

  std::shared_ptr<const TokenMasks> masks_;
  grammar::StackSets stacks_;
  grammar::StackSets::Id position_;
  std::vector<grammar::StackSets::Id> positions_;  // by depth of the walk
};

}  // namespace moe4
