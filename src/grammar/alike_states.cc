// Moore's refinement of states, as many rounds as a text has bytes.
#include "grammar/alike_states.h"

#include <cstdint>
#include <numeric>
#include <unordered_map>

namespace moe4::grammar {
namespace {

constexpr size_t kMaxWork = 60'000'000;  // table entries looked at

struct Signature {
  std::vector<uint32_t> blocks;  // the state's, and those that it leads to by every class
  bool operator==(const Signature&) const = default;
};

struct SignatureHash {
  size_t operator()(const Signature& signature) const {
    uint64_t hash = 0xcbf29ce484222325ULL;
    for (const uint32_t block : signature.blocks) {
      hash = (hash ^ block) * 0x100000001b3ULL;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

}  // namespace

std::vector<std::vector<StateId>> alike_states(const Automaton& automaton,
                                               std::span<const size_t> lengths) {
  const auto n = static_cast<StateId>(automaton.num_states());
  const size_t classes = automaton.classes().count;
  std::vector<StateId> themselves(n);
  std::iota(themselves.begin(), themselves.end(), 0);
  std::vector<StateId> states;  // that only read bytes
  for (StateId s = 0; s < n; ++s) {
    if (automaton.calls(s).empty() && automaton.empty_edges(s).empty()) states.push_back(s);
  }
  if (lengths.empty() || states.size() * classes * lengths.back() > kMaxWork) {
    return {lengths.size(), themselves};
  }
  // Blocks: 0 without a state, then accepting or not, then one for each state that calls.
  std::vector<uint32_t> block(n);
  uint32_t count = 3;
  for (StateId s = 0; s < n; ++s) block[s] = count++;
  for (const StateId s : states) block[s] = automaton.accepts(s) ? 2 : 1;
  std::vector<std::vector<StateId>> results;
  bool is_stable = false;  // nothing tells more of them apart
  size_t blocks = 0;
  for (size_t round = 1; results.size() < lengths.size(); ++round) {
    if (!is_stable) {
      std::unordered_map<Signature, uint32_t, SignatureHash> seen;
      std::vector<uint32_t> fresh(states.size());
      for (size_t i = 0; i < states.size(); ++i) {
        Signature signature;
        signature.blocks.reserve(classes + 1);
        signature.blocks.push_back(block[states[i]]);
        for (size_t c = 0; c < classes; ++c) {
          const StateId to = automaton.next(states[i], static_cast<uint8_t>(c));
          signature.blocks.push_back(to == Automaton::kNone ? 0 : block[to]);
        }
        const auto fresh_block = static_cast<uint32_t>(count + seen.size());
        fresh[i] = seen.try_emplace(std::move(signature), fresh_block).first->second;
      }
      for (size_t i = 0; i < states.size(); ++i) block[states[i]] = fresh[i];
      is_stable = seen.size() == blocks;
      blocks = seen.size();
    }
    if (round != lengths[results.size()]) continue;
    std::unordered_map<uint32_t, StateId> first;
    std::vector<StateId> result = themselves;
    for (const StateId s : states) result[s] = first.try_emplace(block[s], s).first->second;
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace moe4::grammar
