// What models write around an answer that has to have a form: reasoning before it, tags of calls.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dialog/formats.h"

namespace moe4 {

/// `begin`, any text, `end`, `answer_begin`, the answer.
struct ReasoningWords {
  std::string begin;         ///< empty: the prompt has begun it
  std::string end;           ///< what the first of it ends
  std::string answer_begin;  ///< of the answer, also of one without reasoning
  bool is_optional = false;
  bool has_line_breaks = false;  ///< may stand before answer_begin
};

/// How an answer to `prompt` reasons. Nothing where it does not, or has done so already.
std::optional<ReasoningWords> reasoning_words(ReasoningFormat format, std::string_view prompt);

/// What stands before and after the arguments of a call, which are JSON.
struct CallWords {
  std::string begin, end;
};

/// An answer of nothing but calls.
struct CallsWords {
  std::vector<CallWords> of_functions;
  std::string before, separator, after;  ///< all calls, between two, after all
  bool allows_more = true;               ///< than one call
};

/// Of calls of these functions. Nothing for formats that do not write arguments as JSON or number
/// the calls, and for names that a format cannot write as they are.
std::optional<CallsWords> calls_words(ToolFormat format, const std::vector<std::string>& functions);

}  // namespace moe4
