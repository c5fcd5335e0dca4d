// Sets of Unicode code points and their UTF-8 bytes.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "grammar/dfa.h"

namespace moe4::grammar {

/// Closed ranges, ascending, apart from each other, without surrogates.
using CodePoints = std::vector<std::pair<char32_t, char32_t>>;

inline constexpr char32_t kLastCodePoint = 0x10FFFF;

CodePoints all_code_points();
/// Sorts, joins what overlaps and takes surrogates out.
CodePoints normalised(CodePoints ranges);
CodePoints complement(const CodePoints& set);

/// Those of a Unicode general category, "Lu", "L", "Letter" and so on; empty for an unknown name.
CodePoints category_code_points(std::string_view name);

/// A way from `from` to `to` for the bytes of every code point of the set.
void add_utf8(Nfa& nfa, Nfa::State from, Nfa::State to, const CodePoints& set);

}  // namespace moe4::grammar
