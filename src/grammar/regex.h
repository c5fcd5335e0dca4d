// Regular expressions (ECMAScript's subset without memory) as languages of UTF-8 text.
#pragma once

#include <string_view>

#include "grammar/dfa.h"

namespace moe4::grammar {

enum class RegexMatch {
  kWhole,   ///< the text is a match; anchors at its ends change nothing
  kSearch,  ///< the text holds a match, as JSON schema's `pattern` has it
};

/// Alternation, groups, classes, escapes (\d \w \s \p{..}, code points), greedy and lazy repeats
/// and the anchors ^ and $, which are the text's ends. `.` is anything but a line end. Throws
/// Error(kUsage) naming the position for wrong syntax, and for look-around, backreferences, word
/// boundaries and flags, which it does not know; TooComplex for one that needs too many states.
Dfa regex_language(std::string_view pattern, RegexMatch match);

}  // namespace moe4::grammar
