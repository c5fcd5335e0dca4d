// Closure over calls and returns, with stacks merged as soon as they agree.
#include "grammar/stack_sets.h"

#include <algorithm>
#include <map>
#include <utility>

namespace moe4::grammar {
namespace {

uint64_t hash_of(const std::vector<StackSets::Frame>& frames, bool has_empty) {
  uint64_t hash = has_empty ? 0x9e3779b97f4a7c15ULL : 0xcbf29ce484222325ULL;
  for (const StackSets::Frame& frame : frames) {
    hash = (hash ^ frame.state) * 0x100000001b3ULL;
    hash = (hash ^ frame.below) * 0x9fb21c651e98df25ULL;
    hash ^= hash >> 28;
  }
  return hash;
}

}  // namespace

StackSets::StackSets(const Automaton& automaton)
    : automaton_(&automaton), classes_(automaton.classes().count) {
  intern({}, false);
  intern({}, true);
}

StackSets::Id StackSets::intern(const std::vector<Frame>& frames, bool has_empty) {
  const uint64_t hash = hash_of(frames, has_empty);
  const auto [begin, end] = ids_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const auto known = this->frames(it->second);
    if (sets_[it->second].has_empty == has_empty &&
        std::equal(known.begin(), known.end(), frames.begin(), frames.end())) {
      return it->second;
    }
  }
  uint32_t depth = 0;
  for (const Frame& frame : frames) depth = std::max(depth, sets_[frame.below].depth + 1);
  const Id id = static_cast<Id>(sets_.size());
  sets_.push_back({.begin = static_cast<uint32_t>(frames_.size()),
                   .count = static_cast<uint32_t>(frames.size()),
                   .depth = depth,
                   .has_empty = has_empty});
  frames_.insert(frames_.end(), frames.begin(), frames.end());
  next_.resize(next_.size() + classes_, frames.empty() ? kNone : kUnknown);
  below_.push_back(kUnknown);
  ids_.emplace(hash, id);
  return id;
}

// Stacks of either.
StackSets::Id StackSets::unite(Id a, Id b) {
  if (a == b || b == kNone) return a;
  if (a == kNone) return b;
  std::vector<Frame> merged;
  size_t i = 0, j = 0;
  while (i < sets_[a].count || j < sets_[b].count) {
    const bool has_a = i < sets_[a].count, has_b = j < sets_[b].count;
    const Frame x = has_a ? frames(a)[i] : Frame{}, y = has_b ? frames(b)[j] : Frame{};
    if (has_a && has_b && x.state == y.state) {
      merged.push_back({x.state, unite(x.below, y.below)});
      ++i;
      ++j;
    } else if (has_a && (!has_b || x.state < y.state)) {
      merged.push_back(x);
      ++i;
    } else {
      merged.push_back(y);
      ++j;
    }
  }
  return intern(merged, sets_[a].has_empty || sets_[b].has_empty);
}

// The position of stacks with these tops: follows everything that takes no byte.
StackSets::Id StackSets::close(const std::vector<Frame>& tops, bool has_empty) {
  if (tops.size() == 1 && automaton_->is_plain(tops.front().state)) return intern(tops, has_empty);
  std::map<StateId, Id> below;  // of the tops
  std::vector<StateId> open;
  const auto add = [&](StateId state, Id stacks) {
    const auto [it, fresh] = below.try_emplace(state, stacks);
    if (!fresh) {
      const Id both = unite(it->second, stacks);
      if (both == it->second) return;
      it->second = both;
    }
    open.push_back(state);
  };
  for (const Frame& top : tops) add(top.state, top.below);
  while (!open.empty()) {
    const StateId state = open.back();
    open.pop_back();
    const Id stacks = below.at(state);
    for (const StateId to : automaton_->empty_edges(state)) add(to, stacks);
    for (const Call& call : automaton_->calls(state)) {
      const StateId start = automaton_->rule_start(call.rule);
      if (automaton_->only_accepts(call.then)) {  // nothing to come back to
        add(start, stacks);
      } else if (sets_[stacks].depth < kMaxDepth) {
        add(start, intern(std::vector<Frame>{{call.then, stacks}}, false));
      }
    }
    if (!automaton_->accepts(state)) continue;
    has_empty = has_empty || sets_[stacks].has_empty;
    for (uint32_t i = 0; i < sets_[stacks].count; ++i) {
      const Frame frame = frames(stacks)[i];
      add(frame.state, frame.below);
    }
  }
  std::vector<Frame> result;
  for (const auto& [state, stacks] : below) {
    if (automaton_->has_bytes(state)) result.push_back({state, stacks});
  }
  return intern(result, has_empty);
}

StackSets::Id StackSets::position_of(StateId state) {
  return close(std::vector<Frame>{{state, kEmpty}}, false);
}

StackSets::Id StackSets::bytes_of(StateId state) {
  return intern(std::vector<Frame>{{state, kEmpty}}, false);
}

StackSets::Id StackSets::position_below(Id below) {
  if (below_[below] == kUnknown) {
    const auto tops = frames(below);
    const Id position = close({tops.begin(), tops.end()}, sets_[below].has_empty);
    below_[below] = position;
  }
  return below_[below];
}

StackSets::Id StackSets::compute_step(Id position, uint8_t byte_class) {
  std::vector<Frame> tops;
  for (uint32_t i = 0; i < sets_[position].count; ++i) {
    const Frame frame = frames(position)[i];
    const StateId to = automaton_->next(frame.state, byte_class);
    if (to != Automaton::kNone) tops.push_back({to, frame.below});
  }
  const Id result = tops.empty() ? kNone : close(tops, false);
  next_[size_t{position} * classes_ + byte_class] = result;
  return result;
}

// Stacks are at most kMaxDepth deep, and so is the recursion.
StackSets::Id StackSets::moved(Id set, const StackSets& from, std::unordered_map<Id, Id>& known) {
  if (set <= kEmpty) return set;
  if (const auto it = known.find(set); it != known.end()) return it->second;
  std::vector<Frame> frames;
  for (const Frame& frame : from.frames(set)) {
    frames.push_back({frame.state, moved(frame.below, from, known)});
  }
  return known[set] = intern(frames, from.may_end(set));
}

StackSets::Id StackSets::compact(Id position) {
  StackSets fresh(*automaton_);
  std::unordered_map<Id, Id> known;
  const Id id = fresh.moved(position, *this, known);
  *this = std::move(fresh);
  return id;
}

}  // namespace moe4::grammar
