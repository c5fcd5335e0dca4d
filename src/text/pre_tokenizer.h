// Cuts normalised text into the pieces that byte-pair encoding never merges across.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/function_ref.h"
#include "text/split_regex.h"

namespace moe4 {

/// What becomes of a match: a piece of its own, nothing, part of a neighbour, or one piece with the
/// matches beside it.
enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitStep {
  SplitRegex regex;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // what lies between matches counts as the matches
};

/// SentencePiece's spaces: each becomes `replacement`, and one is put in front of a piece that does
/// not begin with one.
struct MetaspaceStep {
  enum class Prepend { kAlways, kFirst, kNever };  // kFirst: only where the whole text begins
  std::string replacement;                         // one character
  Prepend prepend = Prepend::kAlways;
  std::vector<SplitStep> split;  // at `replacement`, or nothing
};

/// Each step in turn, then what the ByteLevel pre-tokenizer does.
struct PreTokenizer {
  std::vector<std::variant<SplitStep, MetaspaceStep>> steps;
  bool byte_level = false;  // the pieces go to a model of bytes
  bool add_prefix_space = false;
  /// GPT-2's own pattern, after the prefix space; at most one.
  std::vector<SplitStep> byte_level_split;

  /// Calls `sink` for every piece, in order; none is empty. Pieces live until `sink` returns.
  /// `at_start`: nothing stands before this text.
  void split(std::string_view text, bool at_start, FunctionRef<void(std::string_view)> sink) const;
};

}  // namespace moe4
