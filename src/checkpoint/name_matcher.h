// Matches module names against the lists of quantisation configs: exact names, globs, regular
// expressions.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace moe4 {

/// A set of patterns. Matching one name costs a hash lookup, plus one for each length of literal
/// beginnings; only patterns whose literal beginning is the name's are tried one by one, and at
/// most kMaxAlike of one beginning (the empty one included) are accepted. So 15,000 patterns
/// against 15,000 names are linear work.
class NameMatcher {
 public:
  static constexpr int kMaxAlike = 1024;

  NameMatcher();
  ~NameMatcher();
  NameMatcher(NameMatcher&&) noexcept;
  NameMatcher& operator=(NameMatcher&&) noexcept;

  /// The whole name, literally.
  void add_exact(std::string name);
  /// Python's fnmatch: * ? [seq] [!seq]; the whole name must match.
  void add_glob(const std::string& glob, const std::string& file);
  /// A regular expression anchored at the start of the name only, as Python's re.match. Throws
  /// Error(kBadInput) naming `file` when it does not compile.
  void add_regex(const std::string& regex, const std::string& file);

  bool empty() const;
  /// Throws Error(kBadInput) when a regular expression needs more than its backtracking limit.
  bool matches(std::string_view name) const;

  /// Patterns tried one by one since construction: the work that is not a lookup. For tests.
  int64_t patterns_tried() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Python's fnmatch on bytes.
bool glob_matches(std::string_view glob, std::string_view name);

}  // namespace moe4
