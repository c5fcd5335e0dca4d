// Regular languages over bytes: built from pieces as an NFA, made deterministic, combined.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace moe4::grammar {

/// A language needs more states than we allow. Its text says of what and how many; who catches it
/// knows where in the request it came from.
class TooComplex : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Counts the work of everything that this thread compiles while it lives; one at a time.
class CompileBudget {
 public:
  static constexpr size_t kMaxWork = 60'000'000;  // about a second

  CompileBudget();
  ~CompileBudget();
  CompileBudget(const CompileBudget&) = delete;
  CompileBudget& operator=(const CompileBudget&) = delete;
};
/// Throws TooComplex when a CompileBudget is used up.
void charge_work(size_t steps);

inline constexpr size_t kMaxNfaNodes = 400'000;
inline constexpr size_t kMaxDfaStates = 100'000;
/// Steps of one construction: NFA nodes looked at, or table entries computed.
inline constexpr size_t kMaxConstructionWork = 20'000'000;

class Nfa {
 public:
  using State = uint32_t;
  struct Edge {
    uint8_t first, last;  // bytes, both included
    State to;
  };
  struct Node {
    std::vector<Edge> bytes;
    std::vector<State> empty;
    std::vector<State> at_begin, at_end;  // taken only at the text's begin or end
    bool is_universal = false;            // accepts whatever follows
  };

  /// Throws TooComplex past kMaxNfaNodes.
  State add();
  Node& operator[](State state) { return nodes_[state]; }
  const Node& operator[](State state) const { return nodes_[state]; }
  size_t size() const { return nodes_.size(); }

 private:
  std::vector<Node> nodes_;
};

/// Which bytes no state tells apart.
struct ByteClasses {
  std::array<uint8_t, 256> of{};
  uint32_t count = 1;

  /// A byte of every class.
  std::vector<uint8_t> representatives() const;
};

/// Bytes that are in one class of both.
ByteClasses refine(const ByteClasses& a, const ByteClasses& b);

/// Deterministic, without states from which no accepted text is left. State 0 is the start.
struct Dfa {
  static constexpr uint32_t kDead = UINT32_MAX;

  ByteClasses classes;
  std::vector<uint32_t> next;      // [states, classes.count]
  std::vector<uint8_t> accepting;  // [states]

  size_t num_states() const { return accepting.size(); }
  bool is_empty() const { return accepting.empty(); }
  uint32_t step(uint32_t state, uint8_t byte) const {
    return state == kDead ? kDead : next[size_t{state} * classes.count + classes.of[byte]];
  }
  bool accepts(std::string_view text) const;
};

/// The language of paths from `begin` to `end`. Throws TooComplex.
Dfa determinise(const Nfa& nfa, Nfa::State begin, Nfa::State end);

/// A language given by a machine: states are numbers of the caller's. `step` returns nothing for a
/// byte that leads nowhere; it is asked for one byte of each class. Throws TooComplex.
struct Machine {
  ByteClasses classes;
  uint64_t start = 0;
  static constexpr uint64_t kNowhere = UINT64_MAX;
  std::function<uint64_t(uint64_t state, uint8_t byte)> step;
  std::function<bool(uint64_t state)> accepts;
};
Dfa build(const Machine& machine);

Dfa intersect(const Dfa& a, const Dfa& b);
/// Texts of `a` that are not in `b`.
Dfa subtract(const Dfa& a, const Dfa& b);
Dfa unite(const Dfa& a, const Dfa& b);
/// Exactly these texts.
Dfa literal_language(const std::vector<std::string_view>& texts);

}  // namespace moe4::grammar
