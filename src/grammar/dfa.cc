// Subset construction, products and trimming.
#include "grammar/dfa.h"

#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/error.h"

namespace moe4::grammar {
namespace {

[[noreturn]] void too_many(const char* what, size_t limit) {
  throw TooComplex("it needs more than " + std::to_string(limit) + " " + what);
}

thread_local size_t work_left = 0;
thread_local bool has_budget = false;

// Counts what a construction costs.
class Work {
 public:
  void add(size_t steps) {
    done_ += steps;
    if (done_ > kMaxConstructionWork) too_many("steps to compile", kMaxConstructionWork);
    charge_work(steps);
  }

 private:
  size_t done_ = 0;
};

// Numbers keys in the order they are met.
template <typename Key, typename Map>
class Numbering {
 public:
  uint32_t number(const Key& key) {
    const auto [it, fresh] = numbers_.try_emplace(key, static_cast<uint32_t>(keys_.size()));
    if (fresh) {
      if (keys_.size() == kMaxDfaStates) too_many("states", kMaxDfaStates);
      keys_.push_back(key);
    }
    return it->second;
  }
  size_t size() const { return keys_.size(); }
  Key key(size_t number) const { return keys_[number]; }

 private:
  Map numbers_;
  std::vector<Key> keys_;
};

// Keeps states that can be reached and can reach acceptance.
Dfa trimmed(const Dfa& dfa) {
  const size_t n = dfa.num_states();
  const size_t classes = dfa.classes.count;
  std::vector<uint32_t> offsets(n + 2, 0), sources;
  for (const uint32_t to : dfa.next) {
    if (to != Dfa::kDead) ++offsets[to + 2];
  }
  for (size_t i = 2; i < offsets.size(); ++i) offsets[i] += offsets[i - 1];
  sources.resize(offsets.back());
  for (size_t s = 0; s < n; ++s) {
    for (size_t c = 0; c < classes; ++c) {
      const uint32_t to = dfa.next[s * classes + c];
      if (to != Dfa::kDead) sources[offsets[to + 1]++] = static_cast<uint32_t>(s);
    }
  }
  std::vector<uint8_t> useful = dfa.accepting;
  std::vector<uint32_t> open;
  for (uint32_t s = 0; s < n; ++s) {
    if (useful[s] != 0) open.push_back(s);
  }
  while (!open.empty()) {
    const uint32_t to = open.back();
    open.pop_back();
    for (uint32_t i = offsets[to]; i < offsets[to + 1]; ++i) {
      if (useful[sources[i]] != 0) continue;
      useful[sources[i]] = 1;
      open.push_back(sources[i]);
    }
  }
  Dfa result;
  result.classes = dfa.classes;
  if (n == 0 || useful[0] == 0) return result;
  std::vector<uint32_t> renamed(n, Dfa::kDead);
  uint32_t count = 0;
  for (size_t s = 0; s < n; ++s) {
    if (useful[s] != 0) renamed[s] = count++;
  }
  result.next.reserve(count * classes);
  for (size_t s = 0; s < n; ++s) {
    if (useful[s] == 0) continue;
    result.accepting.push_back(dfa.accepting[s]);
    for (size_t c = 0; c < classes; ++c) {
      const uint32_t to = dfa.next[s * classes + c];
      result.next.push_back(to == Dfa::kDead ? Dfa::kDead : renamed[to]);
    }
  }
  return result;
}

// Moore's refinement. Languages with long counters need as many rounds as they have states, and
// have little to merge: they are left as they are.
Dfa merged(const Dfa& dfa) {
  constexpr size_t kMaxRounds = 48, kMaxEntries = 20'000'000;
  const size_t n = dfa.num_states();
  const size_t classes = dfa.classes.count;
  if (n < 2) return dfa;
  const size_t rounds = std::min(kMaxRounds, kMaxEntries / (n * classes));
  std::vector<uint32_t> block(dfa.accepting.begin(), dfa.accepting.end());
  size_t blocks = 0;
  std::vector<uint32_t> order(n);
  for (size_t round = 0; round < rounds; ++round) {
    charge_work(n * classes);
    std::unordered_map<uint64_t, std::vector<std::pair<uint32_t, uint32_t>>> seen;
    std::vector<uint32_t> fresh(n);
    uint32_t count = 0;
    const auto same = [&](size_t a, size_t b) {
      if (block[a] != block[b]) return false;
      for (size_t c = 0; c < classes; ++c) {
        const uint32_t x = dfa.next[a * classes + c], y = dfa.next[b * classes + c];
        if ((x == Dfa::kDead) != (y == Dfa::kDead)) return false;
        if (x != Dfa::kDead && block[x] != block[y]) return false;
      }
      return true;
    };
    for (size_t s = 0; s < n; ++s) {
      uint64_t hash = block[s];
      for (size_t c = 0; c < classes; ++c) {
        const uint32_t to = dfa.next[s * classes + c];
        hash = (hash ^ (to == Dfa::kDead ? 0x9e3779b9ULL : block[to] + 1)) * 0x100000001b3ULL;
        hash ^= hash >> 29;
      }
      auto& bucket = seen[hash];
      const auto found = std::find_if(bucket.begin(), bucket.end(),
                                      [&](const auto& entry) { return same(entry.first, s); });
      if (found != bucket.end()) {
        fresh[s] = found->second;
      } else {
        bucket.emplace_back(static_cast<uint32_t>(s), count);
        fresh[s] = count++;
      }
    }
    block = std::move(fresh);
    if (count == n) return dfa;
    if (count == blocks) {  // stable; state 0 is in block 0, the first one met
      Dfa result;
      result.classes = dfa.classes;
      result.accepting.resize(count);
      result.next.resize(count * classes);
      for (size_t s = 0; s < n; ++s) {
        result.accepting[block[s]] = dfa.accepting[s];
        for (size_t c = 0; c < classes; ++c) {
          const uint32_t to = dfa.next[s * classes + c];
          result.next[block[s] * classes + c] = to == Dfa::kDead ? Dfa::kDead : block[to];
        }
      }
      return result;
    }
    blocks = count;
  }
  return dfa;
}

// Bytes whose columns are equal become one class.
Dfa with_fewer_classes(const Dfa& dfa) {
  const size_t classes = dfa.classes.count, n = dfa.num_states();
  std::map<std::vector<uint32_t>, uint32_t> columns;
  std::vector<uint32_t> renamed(classes);
  std::vector<size_t> kept;
  for (size_t c = 0; c < classes; ++c) {
    std::vector<uint32_t> column(n);
    for (size_t s = 0; s < n; ++s) column[s] = dfa.next[s * classes + c];
    const auto [it, fresh] = columns.try_emplace(std::move(column), kept.size());
    if (fresh) kept.push_back(c);
    renamed[c] = it->second;
  }
  if (kept.size() == classes) return dfa;
  Dfa result;
  result.accepting = dfa.accepting;
  result.classes.count = static_cast<uint32_t>(kept.size());
  for (size_t b = 0; b < 256; ++b) {
    result.classes.of[b] = static_cast<uint8_t>(renamed[dfa.classes.of[b]]);
  }
  result.next.reserve(n * kept.size());
  for (size_t s = 0; s < n; ++s) {
    for (const size_t c : kept) result.next.push_back(dfa.next[s * classes + c]);
  }
  return result;
}

Dfa tidy(const Dfa& dfa) {
  charge_work(dfa.next.size() * 4);
  return with_fewer_classes(merged(trimmed(dfa)));
}

using Set = std::vector<Nfa::State>;

struct SetHash {
  size_t operator()(const Set& set) const {
    uint64_t hash = 0xcbf29ce484222325ULL;
    for (const uint32_t s : set) hash = (hash ^ s) * 0x100000001b3ULL;
    return hash;
  }
};

// Follows what takes no byte.
class Closure {
 public:
  Closure(const Nfa& nfa, Work& work) : nfa_(nfa), work_(work), mark_(nfa.size(), 0) {}

  Set of(const Set& from, bool at_begin, bool at_end) {
    ++round_;
    Set set;
    const auto visit = [&](Nfa::State s) {
      if (mark_[s] == round_) return;
      mark_[s] = round_;
      set.push_back(s);
    };
    for (const Nfa::State s : from) visit(s);
    for (size_t i = 0; i < set.size(); ++i) {
      const Nfa::Node& node = nfa_[set[i]];
      if (node.is_universal) return {set[i]};
      for (const Nfa::State to : node.empty) visit(to);
      if (at_begin) {
        for (const Nfa::State to : node.at_begin) visit(to);
      }
      if (at_end) {
        for (const Nfa::State to : node.at_end) visit(to);
      }
    }
    work_.add(set.size());
    std::sort(set.begin(), set.end());
    return set;
  }

 private:
  const Nfa& nfa_;
  Work& work_;
  std::vector<uint32_t> mark_;
  uint32_t round_ = 0;
};

// Classes are intervals, ascending, so that an edge covers consecutive ones.
ByteClasses interval_classes(const Nfa& nfa) {
  std::array<bool, 257> begins{};
  for (size_t s = 0; s < nfa.size(); ++s) {
    for (const Nfa::Edge& edge : nfa[static_cast<Nfa::State>(s)].bytes) {
      begins[edge.first] = true;
      begins[edge.last + 1U] = true;
    }
  }
  ByteClasses classes;
  uint32_t current = 0;
  for (size_t b = 0; b < 256; ++b) {
    if (b > 0 && begins[b]) ++current;
    classes.of[b] = static_cast<uint8_t>(current);
  }
  classes.count = current + 1;
  return classes;
}

template <typename Accepts>
Dfa product(const Dfa& a, const Dfa& b, const Accepts& accepts) {
  Work work;
  Dfa result;
  result.classes = refine(a.classes, b.classes);
  const std::vector<uint8_t> bytes = result.classes.representatives();
  Numbering<uint64_t, std::unordered_map<uint64_t, uint32_t>> states;
  const auto key = [](uint32_t x, uint32_t y) { return uint64_t{x} << 32 | y; };
  const auto accepting = [](const Dfa& dfa, uint32_t s) {
    return s != Dfa::kDead && dfa.accepting[s] != 0;
  };
  states.number(key(a.is_empty() ? Dfa::kDead : 0, b.is_empty() ? Dfa::kDead : 0));
  for (size_t i = 0; i < states.size(); ++i) {
    const auto x = static_cast<uint32_t>(states.key(i) >> 32);
    const auto y = static_cast<uint32_t>(states.key(i));
    result.accepting.push_back(accepts(accepting(a, x), accepting(b, y)) ? 1 : 0);
    work.add(bytes.size());
    for (const uint8_t byte : bytes) {
      const uint32_t to_x = a.step(x, byte), to_y = b.step(y, byte);
      const bool hopeless = (to_x == Dfa::kDead && (to_y == Dfa::kDead || !accepts(false, true))) ||
                            (to_y == Dfa::kDead && !accepts(true, false));
      result.next.push_back(hopeless ? Dfa::kDead : states.number(key(to_x, to_y)));
    }
  }
  return tidy(result);
}

}  // namespace

CompileBudget::CompileBudget() {
  MOE4_CHECK(!has_budget);
  has_budget = true;
  work_left = kMaxWork;
}

CompileBudget::~CompileBudget() { has_budget = false; }

void charge_work(size_t steps) {
  if (!has_budget) return;
  if (steps > work_left) too_many("steps to compile", CompileBudget::kMaxWork);
  work_left -= steps;
}

Nfa::State Nfa::add() {
  if (nodes_.size() == kMaxNfaNodes) too_many("parts", kMaxNfaNodes);
  nodes_.emplace_back();
  return static_cast<State>(nodes_.size() - 1);
}

std::vector<uint8_t> ByteClasses::representatives() const {
  std::vector<uint8_t> bytes(count);
  for (size_t b = 256; b-- > 0;) bytes[of[b]] = static_cast<uint8_t>(b);
  return bytes;
}

ByteClasses refine(const ByteClasses& a, const ByteClasses& b) {
  std::map<std::pair<uint8_t, uint8_t>, uint32_t> numbers;
  ByteClasses classes;
  for (size_t byte = 0; byte < 256; ++byte) {
    const auto it = numbers.try_emplace({a.of[byte], b.of[byte]}, numbers.size()).first;
    classes.of[byte] = static_cast<uint8_t>(it->second);
  }
  classes.count = static_cast<uint32_t>(numbers.size());
  return classes;
}

bool Dfa::accepts(std::string_view text) const {
  uint32_t state = is_empty() ? kDead : 0;
  for (const char c : text) state = step(state, static_cast<uint8_t>(c));
  return state != kDead && accepting[state] != 0;
}

Dfa determinise(const Nfa& nfa, Nfa::State begin, Nfa::State end) {
  Work work;
  Closure closure(nfa, work);
  Dfa result;
  result.classes = interval_classes(nfa);
  const size_t classes = result.classes.count;
  Numbering<Set, std::unordered_map<Set, uint32_t, SetHash>> states;
  states.number(closure.of({begin}, true, false));
  std::vector<Set> targets(classes);
  for (size_t i = 0; i < states.size(); ++i) {
    const Set set = states.key(i);
    const Set at_end = closure.of(set, i == 0, true);
    const bool universal = at_end.size() == 1 && nfa[at_end.front()].is_universal;
    result.accepting.push_back(
        universal || std::binary_search(at_end.begin(), at_end.end(), end) ? 1 : 0);
    for (Set& target : targets) target.clear();
    for (const Nfa::State s : set) {
      for (const Nfa::Edge& edge : nfa[s].bytes) {
        const size_t last = result.classes.of[edge.last];
        work.add(last - result.classes.of[edge.first] + 1);
        for (size_t c = result.classes.of[edge.first]; c <= last; ++c) {
          targets[c].push_back(edge.to);
        }
      }
    }
    const bool stays = set.size() == 1 && nfa[set.front()].is_universal;
    for (size_t c = 0; c < classes; ++c) {
      if (stays) {
        result.next.push_back(static_cast<uint32_t>(i));
      } else if (targets[c].empty()) {
        result.next.push_back(Dfa::kDead);
      } else {
        result.next.push_back(states.number(closure.of(targets[c], false, false)));
      }
    }
    work.add(classes);
  }
  return tidy(result);
}

Dfa build(const Machine& machine) {
  Work work;
  Dfa result;
  result.classes = machine.classes;
  const std::vector<uint8_t> bytes = machine.classes.representatives();
  Numbering<uint64_t, std::unordered_map<uint64_t, uint32_t>> states;
  states.number(machine.start);
  for (size_t i = 0; i < states.size(); ++i) {
    const uint64_t state = states.key(i);
    result.accepting.push_back(machine.accepts(state) ? 1 : 0);
    work.add(bytes.size());
    for (const uint8_t byte : bytes) {
      const uint64_t to = machine.step(state, byte);
      result.next.push_back(to == Machine::kNowhere ? Dfa::kDead : states.number(to));
    }
  }
  return tidy(result);
}

Dfa intersect(const Dfa& a, const Dfa& b) {
  return product(a, b, [](bool x, bool y) { return x && y; });
}

Dfa subtract(const Dfa& a, const Dfa& b) {
  return product(a, b, [](bool x, bool y) { return x && !y; });
}

Dfa unite(const Dfa& a, const Dfa& b) {
  return product(a, b, [](bool x, bool y) { return x || y; });
}

Dfa literal_language(const std::vector<std::string_view>& texts) {
  Nfa nfa;
  const Nfa::State begin = nfa.add(), end = nfa.add();
  for (const std::string_view text : texts) {
    Nfa::State at = begin;
    for (const char c : text) {
      const Nfa::State to = nfa.add();
      const auto byte = static_cast<uint8_t>(c);
      nfa[at].bytes.push_back({byte, byte, to});
      at = to;
    }
    nfa[at].empty.push_back(end);
  }
  return determinise(nfa, begin, end);
}

}  // namespace moe4::grammar
