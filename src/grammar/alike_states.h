// States of an automaton that short texts do not tell apart.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "grammar/automaton.h"

namespace moe4::grammar {

/// For every entry of `lengths`, ascending, and every state, one that stands for it: of the same
/// rule or another, and no text of up to so many bytes is read otherwise from it, or ends the rule
/// elsewhere. States that call rules stand for themselves. So nearly all of a string of up to 500
/// characters are one. Automata too large for it in reasonable time stand for themselves
/// altogether.
std::vector<std::vector<StateId>> alike_states(const Automaton& automaton,
                                               std::span<const size_t> lengths);

}  // namespace moe4::grammar
