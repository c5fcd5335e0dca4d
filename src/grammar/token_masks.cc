// Walks of the vocabulary's trie through the automaton.
#include "grammar/token_masks.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "grammar/alike_states.h"
#include "grammar/automaton.h"

namespace moe4 {
namespace {

using grammar::StackSets;
using grammar::TokenTrie;

// Past these, parts and positions are forgotten and computed again.
constexpr size_t kMaxPartBytes = size_t{256} << 20;
constexpr size_t kMaxPositions = 20'000;

void set_bits(std::span<uint64_t> words, std::span<const int32_t> ids) {
  for (const int32_t id : ids) {
    words[static_cast<size_t>(id) / 64] |= uint64_t{1} << (static_cast<size_t>(id) % 64);
  }
}

// Visits the nodes of a subtree that a text at `start` can go on with: visit(node, position).
// `positions` is working memory.
template <typename Visit>
void walk(const TokenTrie& trie, size_t begin, size_t end, size_t depth, StackSets& stacks,
          StackSets::Id start, std::vector<StackSets::Id>& positions, const Visit& visit) {
  const auto nodes = trie.nodes();
  positions.resize(std::max(positions.size(), trie.depth() + 1));
  positions[depth] = start;
  for (size_t i = begin; i < end;) {
    const TokenTrie::Node& node = nodes[i];
    const StackSets::Id position = stacks.step(positions[node.depth - 1U], node.byte);
    if (position == StackSets::kNone) {
      i = node.end;
      continue;
    }
    positions[node.depth] = position;
    visit(i, position);
    i = position == StackSets::kEmpty ? node.end : i + 1;
  }
}

}  // namespace

Vocabulary::Vocabulary(std::vector<std::string> bytes) : bytes_(std::move(bytes)) {
  size_t least = 1;
  for (const size_t most : kLengths) {
    tries_.emplace_back(bytes_, least, most);
    least = most + 1;
  }
  tries_.emplace_back(bytes_, least, kMaxTokenBytes);
}

Vocabulary::Vocabulary(const Tokenizer& tokenizer)
    : Vocabulary(grammar::grammar_token_bytes(tokenizer)) {}

TokenMasks::TokenMasks(std::shared_ptr<const Grammar> grammar,
                       std::shared_ptr<const Vocabulary> vocabulary)
    : grammar_(std::move(grammar)),
      vocabulary_(std::move(vocabulary)),
      alike_(grammar::alike_states(grammar_->automaton(), Vocabulary::kLengths)),
      stacks_(grammar_->automaton()),
      parts_(vocabulary_->tries().size()) {}

TokenMasks::~TokenMasks() = default;

TokenMasks::Part TokenMasks::compute(const TokenTrie& trie, grammar::StateId state) const {
  if (stacks_.size() > kMaxPositions) stacks_ = StackSets(grammar_->automaton());
  Part part;
  walk(trie, 0, trie.nodes().size(), 0, stacks_, stacks_.bytes_of(state), positions_,
       [&](size_t node, StackSets::Id position) {
         const auto tokens = trie.tokens(node);
         part.ids.insert(part.ids.end(), tokens.begin(), tokens.end());
         if (stacks_.may_end(position) && trie.nodes()[node].end > node + 1) {
           part.returns.push_back(static_cast<uint32_t>(node));
         }
       });
  const size_t words = vocabulary_->mask_words();
  if (part.ids.size() * sizeof(int32_t) >= words * sizeof(uint64_t)) {
    part.bits.assign(words, 0);
    set_bits(part.bits, part.ids);
    part.ids = {};
  }
  part.ids.shrink_to_fit();
  return part;
}

std::shared_ptr<const TokenMasks::Part> TokenMasks::part(size_t trie,
                                                         grammar::StateId state) const {
  const std::lock_guard lock(mutex_);
  const grammar::StateId own = trie < alike_.size() ? alike_[trie][state] : state;
  if (const auto it = parts_[trie].find(own); it != parts_[trie].end()) return it->second;
  auto part = std::make_shared<const Part>(compute(vocabulary_->tries()[trie], own));
  part_bytes_ += (part->bits.size() * 8) + ((part->ids.size() + part->returns.size()) * 4) + 128;
  if (part_bytes_ > kMaxPartBytes) {
    for (auto& parts : parts_) parts.clear();
    part_bytes_ = 0;
  }
  parts_[trie].emplace(own, part);
  return part;
}

GrammarMatcher::GrammarMatcher(std::shared_ptr<const TokenMasks> masks)
    : masks_(std::move(masks)),
      stacks_(masks_->grammar().automaton()),
      position_(stacks_.position_of(masks_->grammar().automaton().start())) {}

// What a state allows with what is below it.
void GrammarMatcher::add(const TokenTrie& trie, const TokenMasks::Part& part, StackSets::Id below,
                         std::span<uint64_t> words) {
  for (size_t i = 0; i < part.bits.size(); ++i) words[i] |= part.bits[i];
  set_bits(words, part.ids);
  if (stacks_.frames(below).empty()) return;
  for (const uint32_t node : part.returns) {
    const TokenTrie::Node& top = trie.nodes()[node];
    walk(trie, node + size_t{1}, top.end, top.depth, stacks_, below, positions_,
         [&](size_t at, StackSets::Id) { set_bits(words, trie.tokens(at)); });
  }
}

void GrammarMatcher::fill_mask(std::span<uint64_t> words) {
  const Vocabulary& vocabulary = masks_->vocabulary();
  MOE4_CHECK(words.size() == vocabulary.mask_words());
  std::fill(words.begin(), words.end(), 0);
  if (stacks_.size() > kMaxPositions) position_ = stacks_.compact(position_);
  const auto tops = stacks_.frames(position_);
  const std::vector<StackSets::Frame> frames(tops.begin(), tops.end());
  for (const StackSets::Frame& frame : frames) {
    const StackSets::Id below = stacks_.position_below(frame.below);
    for (size_t trie = 0; trie < vocabulary.tries().size(); ++trie) {
      add(vocabulary.tries()[trie], *masks_->part(trie, frame.state), below, words);
    }
  }
}

bool GrammarMatcher::accept(int32_t token) {
  if (token < 0 || token >= masks_->vocabulary().size()) return false;
  const std::string& bytes = masks_->vocabulary().bytes(token);
  const bool is_usable = !bytes.empty() && bytes.size() <= Vocabulary::kMaxTokenBytes;
  StackSets::Id position = is_usable ? position_ : StackSets::kNone;
  for (const char c : bytes) position = stacks_.step(position, static_cast<uint8_t>(c));
  if (position == StackSets::kNone) return false;
  position_ = position;
  return true;
}

}  // namespace moe4
