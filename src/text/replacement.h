// Replaces what a pattern finds: the Replace step of normalizers and decoders.
#pragma once

#include <string>
#include <string_view>

#include "text/split_regex.h"

namespace moe4 {

class Replacement {
 public:
  static constexpr size_t kMaxContentBytes = 64;

  /// `content` is taken as it is, at most kMaxContentBytes of it.
  Replacement(SplitRegex pattern, std::string content);

  /// Throws Error(kBadInput) when the pattern finds an empty text.
  std::string apply(std::string_view valid_utf8) const;

 private:
  SplitRegex pattern_;
  std::string content_;
};

}  // namespace moe4
