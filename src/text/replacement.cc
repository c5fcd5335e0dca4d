// Copies what lies between the matches.
#include "text/replacement.h"

#include <utility>
#include <vector>

#include "base/error.h"

namespace moe4 {

Replacement::Replacement(SplitRegex pattern, std::string content)
    : pattern_(std::move(pattern)), content_(std::move(content)) {
  MOE4_CHECK(content_.size() <= kMaxContentBytes);
}

std::string Replacement::apply(std::string_view valid_utf8) const {
  std::vector<Span> matches;
  pattern_.find_all(valid_utf8, &matches);
  if (matches.empty()) return std::string(valid_utf8);
  std::string result;
  size_t done = 0;
  for (const Span& match : matches) {
    if (match.begin == match.end) pattern_.refuse("finds an empty text, which cannot be replaced");
    result.append(valid_utf8.substr(done, match.begin - done)).append(content_);
    done = match.end;
  }
  result.append(valid_utf8.substr(done));
  return result;
}

}  // namespace moe4
