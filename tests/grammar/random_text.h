// Texts of a grammar, by random steps that come to an end.
#pragma once

#include <algorithm>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/grammar.h"
#include "grammar/stack_sets.h"

namespace moe4::testing {

/// A text of the grammar; past `most` bytes it takes what ends it soonest, and past ten times that
/// many it is given up: empty.
inline std::string random_text(const Grammar& grammar, std::mt19937_64& rng, size_t most = 200) {
  grammar::StackSets stacks(grammar.automaton());
  auto position = stacks.position_of(grammar.automaton().start());
  std::string text;
  while (text.size() < 10 * most) {
    const bool ends = stacks.may_end(position);
    if (ends && (stacks.frames(position).empty() || text.size() > most || rng() % 4 == 0)) {
      return text;
    }
    std::vector<uint8_t> open;
    for (int byte = 0; byte < 256; ++byte) {
      const auto b = static_cast<uint8_t>(byte);
      if (stacks.step(position, b) != grammar::StackSets::kNone) open.push_back(b);
    }
    uint8_t byte = open[rng() % open.size()];
    const auto has = [&](char c) {
      return std::find(open.begin(), open.end(), static_cast<uint8_t>(c)) != open.end();
    };
    // White space and characters of strings would crowd out all else.
    if (byte == ' ' || byte == '\n' || byte == '\t') byte = open[rng() % open.size()];
    if (has('"') && rng() % 8 == 0) byte = '"';
    if (text.size() > most) {
      for (const char c : std::string_view("}]\"nft0123456789")) {
        if (!has(c)) continue;
        byte = static_cast<uint8_t>(c);
        break;
      }
    }
    position = stacks.step(position, byte);
    text += static_cast<char>(byte);
  }
  return {};
}

}  // namespace moe4::testing
