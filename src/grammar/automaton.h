// A pushdown automaton over bytes: rules made of states, where a state may call a rule.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "grammar/dfa.h"

namespace moe4::grammar {

using StateId = uint32_t;
using RuleId = uint32_t;

inline constexpr size_t kMaxStates = 300'000;    ///< of all rules
inline constexpr size_t kMaxTable = 16'000'000;  ///< entries: states x byte classes
inline constexpr size_t kMaxEdges = 2'000'000;

/// A call goes on in `rule`, and in state `then` when that accepts.
struct Call {
  RuleId rule;
  StateId then;
};

/// Immutable. Every state can be left towards acceptance.
class Automaton {
 public:
  static constexpr StateId kNone = UINT32_MAX;

  const ByteClasses& classes() const { return classes_; }
  size_t num_states() const { return accepting_.size(); }
  /// The root rule's.
  StateId start() const { return start_; }
  StateId rule_start(RuleId rule) const { return rules_[rule]; }
  /// Of all rules; kNone for those that nothing comes back from.
  std::span<const StateId> rule_starts() const { return rules_; }

  StateId next(StateId state, uint8_t byte_class) const {
    const uint32_t row = rows_[state];
    return row == kNone ? kNone : table_[size_t{row} * classes_.count + byte_class];
  }
  bool has_bytes(StateId state) const { return rows_[state] != kNone; }
  bool accepts(StateId state) const { return accepting_[state] != 0; }
  std::span<const Call> calls(StateId state) const {
    return std::span(calls_).subspan(call_begin_[state],
                                     call_begin_[state + 1] - call_begin_[state]);
  }
  std::span<const StateId> empty_edges(StateId state) const {
    return std::span(empty_).subspan(empty_begin_[state],
                                     empty_begin_[state + 1] - empty_begin_[state]);
  }
  /// Whether it is left by bytes alone.
  bool is_plain(StateId state) const { return plain_[state] != 0; }
  /// Whether all it does is to end its rule.
  bool only_accepts(StateId state) const { return plain_[state] == 0 && accepts_only_[state] != 0; }

 private:
  friend class AutomatonBuilder;

  ByteClasses classes_;
  StateId start_ = 0;
  std::vector<StateId> rules_;
  std::vector<uint32_t> rows_;  // of a state in table_; kNone without edges of bytes
  std::vector<StateId> table_;  // [rows, classes]
  std::vector<uint8_t> accepting_, plain_, accepts_only_;
  std::vector<uint32_t> call_begin_, empty_begin_;  // [states + 1]
  std::vector<Call> calls_;
  std::vector<StateId> empty_;
};

/// Throws TooComplex past the limits above.
class AutomatonBuilder {
 public:
  /// A rule of one state so far, its start.
  RuleId add_rule();
  StateId start(RuleId rule) const { return rules_[rule]; }
  StateId add_state();
  void accept(StateId state) { states_[state].accepting = true; }
  /// `from` must not have an edge for any of these bytes yet.
  void add_bytes(StateId from, uint8_t first, uint8_t last, StateId to);
  /// A way for the text; returns its end. `from` may have others of the kind.
  StateId add_text(StateId from, std::string_view text);
  void add_call(StateId from, RuleId rule, StateId to);
  void add_empty(StateId from, StateId to);
  /// A rule of its own. An empty language is a rule that nothing comes back from.
  RuleId add_language(const Dfa& dfa);
  /// A rule whose texts are those of a whole automaton.
  RuleId add_automaton(const Automaton& automaton);

  size_t num_states() const { return states_.size(); }

  /// With states removed that lead nowhere. Nothing of the builder is used after. False in
  /// `*has_texts` when the root rule accepts nothing.
  Automaton build(RuleId root, bool* has_texts);

 private:
  struct Edge {
    uint8_t first, last;
    StateId to;
  };
  struct State {
    std::vector<Edge> bytes;
    std::vector<Call> calls;
    std::vector<StateId> empty;
    bool accepting = false;
  };

  void count_edge();
  std::vector<uint8_t> useful_states() const;
  ByteClasses byte_classes() const;

  std::vector<State> states_;
  std::vector<StateId> rules_;
  size_t edges_ = 0;
};

}  // namespace moe4::grammar
