// Where a pushdown automaton can be: sets of stacks that share what they have in common.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"

namespace moe4::grammar {

/// A set of stacks: for each state that may be on top, the set of stacks below it. Equal sets have
/// equal ids, so that steps are remembered: used often, it is a table.
///
/// A position is a set whose tops all read a byte next; what it holds besides is whether the text
/// may end here. Copyable; positions of a copy are those of the original.
class StackSets {
 public:
  using Id = uint32_t;
  static constexpr Id kNone = 0;   ///< no stack: no text goes on from here
  static constexpr Id kEmpty = 1;  ///< the empty stack alone: the text is complete

  /// Deeper stacks are given up: some 250 levels of nested JSON.
  static constexpr uint32_t kMaxDepth = 1000;

  struct Frame {
    StateId state;
    Id below;
    bool operator==(const Frame&) const = default;
  };

  /// `automaton` must outlive it.
  explicit StackSets(const Automaton& automaton);

  /// The position of a text that begins in `state`.
  Id position_of(StateId state);
  /// The same, for texts that begin with one of the state's own bytes: no call, no return first.
  Id bytes_of(StateId state);
  /// The position after a byte; kNone when it cannot come.
  Id step(Id position, uint8_t byte) {
    const uint8_t byte_class = automaton_->classes().of[byte];
    const Id known = next_[size_t{position} * classes_ + byte_class];
    return known != kUnknown ? known : compute_step(position, byte_class);
  }
  bool may_end(Id set) const { return sets_[set].has_empty; }
  std::span<const Frame> frames(Id set) const {
    return std::span(frames_).subspan(sets_[set].begin, sets_[set].count);
  }
  /// The position once everything above `below` has accepted.
  Id position_below(Id below);

  size_t size() const { return sets_.size(); }
  /// Forgets all sets but those of a position. Returns its new id.
  Id compact(Id position);

 private:
  static constexpr Id kUnknown = UINT32_MAX;

  struct Set {
    uint32_t begin, count;  // in frames_
    uint32_t depth;
    bool has_empty;
  };

  Id intern(const std::vector<Frame>& frames, bool has_empty);  // sorted by state
  Id unite(Id a, Id b);
  Id compute_step(Id position, uint8_t byte_class);
  Id close(const std::vector<Frame>& tops, bool has_empty);
  Id moved(Id set, const StackSets& from, std::unordered_map<Id, Id>& known);

  const Automaton* automaton_;
  size_t classes_;
  std::vector<Set> sets_;
  std::vector<Frame> frames_;
  std::vector<Id> next_;   // [sets, classes]
  std::vector<Id> below_;  // [sets]: position_below
  std::unordered_multimap<uint64_t, Id> ids_;
};

}  // namespace moe4::grammar
