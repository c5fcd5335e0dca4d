// Cuts normalised text into the pieces that byte-pair encoding never merges across.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/function_ref.h"
#include "text/split_regex.h"

namespace moe4 {

struct SplitStep {
  SplitRegex regex;
  bool remove_matches = false;  // Removed
  bool remove_gaps = false;     // Removed, inverted
};

/// Splits by each step in turn, then as the ByteLevel pre-tokenizer does.
struct PreTokenizer {
  std::vector<SplitStep> splits;
  bool add_prefix_space = false;
  /// GPT-2's own pattern, after the prefix space; at most one.
  std::vector<SplitStep> byte_level_split;

  /// Calls `sink` for every piece, in order; none is empty. Pieces live until `sink` returns.
  void split(std::string_view text, FunctionRef<void(std::string_view)> sink) const;
};

}  // namespace moe4
