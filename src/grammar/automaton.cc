// Assembly of rules into one table.
#include "grammar/automaton.h"

#include <algorithm>
#include <map>
#include <string>

#include "base/error.h"

namespace moe4::grammar {

RuleId AutomatonBuilder::add_rule() {
  rules_.push_back(add_state());
  return static_cast<RuleId>(rules_.size() - 1);
}

StateId AutomatonBuilder::add_state() {
  if (states_.size() == kMaxStates) {
    throw TooComplex("it needs more than " + std::to_string(kMaxStates) + " states");
  }
  states_.emplace_back();
  return static_cast<StateId>(states_.size() - 1);
}

void AutomatonBuilder::count_edge() {
  if (++edges_ > kMaxEdges) {
    throw TooComplex("it needs more than " + std::to_string(kMaxEdges) + " edges");
  }
}

void AutomatonBuilder::add_bytes(StateId from, uint8_t first, uint8_t last, StateId to) {
  count_edge();
  states_[from].bytes.push_back({first, last, to});
}

StateId AutomatonBuilder::add_text(StateId from, std::string_view text) {
  StateId at = from;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    const std::vector<Edge>& edges = states_[at].bytes;
    const auto found = std::find_if(edges.begin(), edges.end(), [&](const Edge& e) {
      return e.first <= byte && byte <= e.last;
    });
    if (found != edges.end() && found->first == byte && found->last == byte) {
      at = found->to;
      continue;
    }
    MOE4_CHECK(found == edges.end());
    const StateId to = add_state();
    add_bytes(at, byte, byte, to);
    at = to;
  }
  return at;
}

void AutomatonBuilder::add_call(StateId from, RuleId rule, StateId to) {
  count_edge();
  states_[from].calls.push_back({rule, to});
}

void AutomatonBuilder::add_empty(StateId from, StateId to) {
  count_edge();
  states_[from].empty.push_back(to);
}

RuleId AutomatonBuilder::add_language(const Dfa& dfa) {
  if (dfa.is_empty()) return add_rule();
  const auto first = static_cast<StateId>(states_.size());
  for (size_t s = 0; s < dfa.num_states(); ++s) {
    const StateId state = add_state();
    if (dfa.accepting[s] != 0) accept(state);
  }
  for (size_t s = 0; s < dfa.num_states(); ++s) {
    for (size_t b = 0; b < 256;) {
      const uint32_t to = dfa.step(static_cast<uint32_t>(s), static_cast<uint8_t>(b));
      size_t end = b + 1;
      while (end < 256 && dfa.step(static_cast<uint32_t>(s), static_cast<uint8_t>(end)) == to)
        ++end;
      if (to != Dfa::kDead) {
        add_bytes(first + static_cast<StateId>(s), static_cast<uint8_t>(b),
                  static_cast<uint8_t>(end - 1), first + to);
      }
      b = end;
    }
  }
  rules_.push_back(first);
  return static_cast<RuleId>(rules_.size() - 1);
}

RuleId AutomatonBuilder::add_automaton(const Automaton& automaton) {
  const auto first_state = static_cast<StateId>(states_.size());
  const auto first_rule = static_cast<RuleId>(rules_.size());
  const auto count = static_cast<StateId>(automaton.num_states());
  const ByteClasses& classes = automaton.classes();
  for (StateId s = 0; s < count; ++s) {
    if (automaton.accepts(s))
      accept(add_state());
    else
      add_state();
  }
  for (StateId s = 0; s < count; ++s) {
    const StateId from = first_state + s;
    for (size_t b = 0; b < 256 && automaton.has_bytes(s);) {
      const StateId to = automaton.next(s, classes.of[b]);
      size_t end = b + 1;
      while (end < 256 && automaton.next(s, classes.of[end]) == to) ++end;
      if (to != Automaton::kNone) {
        add_bytes(from, static_cast<uint8_t>(b), static_cast<uint8_t>(end - 1), first_state + to);
      }
      b = end;
    }
    for (const Call& call : automaton.calls(s)) {
      add_call(from, first_rule + call.rule, first_state + call.then);
    }
    for (const StateId to : automaton.empty_edges(s)) add_empty(from, first_state + to);
  }
  // Rules that nothing comes back from were left out, and nobody calls them.
  for (const StateId start : automaton.rule_starts()) {
    rules_.push_back(start == Automaton::kNone ? first_state : first_state + start);
  }
  rules_.push_back(first_state + automaton.start());
  return static_cast<RuleId>(rules_.size() - 1);
}

// Those from which their rule can be ended.
std::vector<uint8_t> AutomatonBuilder::useful_states() const {
  const size_t n = states_.size();
  std::vector<std::vector<StateId>> waiting(n);  // states to look at again once this one is useful
  for (StateId s = 0; s < n; ++s) {
    for (const Edge& edge : states_[s].bytes) waiting[edge.to].push_back(s);
    for (const StateId to : states_[s].empty) waiting[to].push_back(s);
    for (const Call& call : states_[s].calls) {
      waiting[call.then].push_back(s);
      waiting[rules_[call.rule]].push_back(s);
    }
  }
  std::vector<uint8_t> useful(n, 0);
  const auto is_useful = [&](StateId s) {
    const State& state = states_[s];
    return state.accepting ||
           std::any_of(state.bytes.begin(), state.bytes.end(),
                       [&](const Edge& e) { return useful[e.to] != 0; }) ||
           std::any_of(state.empty.begin(), state.empty.end(),
                       [&](StateId to) { return useful[to] != 0; }) ||
           std::any_of(state.calls.begin(), state.calls.end(), [&](const Call& c) {
             return useful[c.then] != 0 && useful[rules_[c.rule]] != 0;
           });
  };
  std::vector<StateId> open;
  for (StateId s = 0; s < n; ++s) {
    if (states_[s].accepting) {
      useful[s] = 1;
      open.push_back(s);
    }
  }
  while (!open.empty()) {
    const StateId done = open.back();
    open.pop_back();
    for (const StateId s : waiting[done]) {
      if (useful[s] != 0 || !is_useful(s)) continue;
      useful[s] = 1;
      open.push_back(s);
    }
  }
  return useful;
}

// Bytes that every state treats alike: intervals first, then those of equal columns.
ByteClasses AutomatonBuilder::byte_classes() const {
  std::array<bool, 257> begins{};
  for (const State& state : states_) {
    for (const Edge& edge : state.bytes) {
      begins[edge.first] = true;
      begins[edge.last + 1U] = true;
    }
  }
  ByteClasses intervals;
  uint32_t current = 0;
  for (size_t b = 0; b < 256; ++b) {
    if (b > 0 && begins[b]) ++current;
    intervals.of[b] = static_cast<uint8_t>(current);
  }
  intervals.count = current + 1;

  // Intervals with equal targets in every state. Two hashes of a column, as good as the column.
  std::vector<std::pair<uint64_t, uint64_t>> columns(intervals.count);
  for (StateId s = 0; s < states_.size(); ++s) {
    for (const Edge& edge : states_[s].bytes) {
      const uint64_t mixed = (uint64_t{s} << 32 | edge.to) * 0x9e3779b97f4a7c15ULL;
      for (size_t c = intervals.of[edge.first]; c <= intervals.of[edge.last]; ++c) {
        columns[c].first += mixed ^ mixed >> 31;
        columns[c].second += (mixed ^ mixed >> 27) * 0xbf58476d1ce4e5b9ULL;
      }
    }
  }
  std::map<std::pair<uint64_t, uint64_t>, uint32_t> numbers;
  std::vector<uint32_t> of_interval;
  of_interval.reserve(columns.size());
  for (const auto& column : columns) {
    of_interval.push_back(numbers.try_emplace(column, numbers.size()).first->second);
  }
  ByteClasses classes;
  for (size_t b = 0; b < 256; ++b) {
    classes.of[b] = static_cast<uint8_t>(of_interval[intervals.of[b]]);
  }
  classes.count = static_cast<uint32_t>(numbers.size());
  return classes;
}

Automaton AutomatonBuilder::build(RuleId root, bool* has_texts) {
  const std::vector<uint8_t> useful = useful_states();
  *has_texts = useful[rules_[root]] != 0;
  Automaton result;
  result.classes_ = byte_classes();
  std::vector<StateId> renamed(states_.size(), Automaton::kNone);
  StateId count = 0;
  for (StateId s = 0; s < states_.size(); ++s) {
    if (useful[s] != 0) renamed[s] = count++;
  }
  result.rules_.reserve(rules_.size());
  for (const StateId s : rules_) result.rules_.push_back(renamed[s]);
  result.start_ = renamed[rules_[root]];
  const size_t classes = result.classes_.count;
  uint32_t rows = 0;
  for (StateId s = 0; s < states_.size(); ++s) {
    if (useful[s] == 0) continue;
    const State& state = states_[s];
    result.call_begin_.push_back(static_cast<uint32_t>(result.calls_.size()));
    result.empty_begin_.push_back(static_cast<uint32_t>(result.empty_.size()));
    result.accepting_.push_back(state.accepting ? 1 : 0);
    for (const Call& call : state.calls) {
      if (useful[call.then] == 0 || useful[rules_[call.rule]] == 0) continue;
      result.calls_.push_back({call.rule, renamed[call.then]});
    }
    for (const StateId to : state.empty) {
      if (useful[to] != 0) result.empty_.push_back(renamed[to]);
    }
    bool has_bytes = false;
    for (const Edge& edge : state.bytes) {
      if (useful[edge.to] == 0) continue;
      if (!has_bytes) {
        has_bytes = true;
        result.table_.resize(result.table_.size() + classes, Automaton::kNone);
        if (result.table_.size() > kMaxTable) {
          throw TooComplex("its tables have more than " + std::to_string(kMaxTable) + " entries");
        }
      }
      StateId* const row = result.table_.data() + size_t{rows} * classes;
      for (size_t b = edge.first; b <= edge.last; ++b) {
        StateId& to = row[result.classes_.of[b]];
        MOE4_CHECK(to == Automaton::kNone || to == renamed[edge.to]);
        to = renamed[edge.to];
      }
    }
    result.rows_.push_back(has_bytes ? rows++ : Automaton::kNone);
    const bool moves = result.calls_.size() > result.call_begin_.back() ||
                       result.empty_.size() > result.empty_begin_.back();
    result.plain_.push_back(has_bytes && !moves && !state.accepting ? 1 : 0);
    result.accepts_only_.push_back(state.accepting && !has_bytes && !moves ? 1 : 0);
  }
  result.call_begin_.push_back(static_cast<uint32_t>(result.calls_.size()));
  result.empty_begin_.push_back(static_cast<uint32_t>(result.empty_.size()));
  return result;
}

}  // namespace moe4::grammar
