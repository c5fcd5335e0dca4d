// A compiled pattern that finds the words of a text.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace moe4 {

/// Bytes [begin, end) of a text.
struct Span {
  size_t begin;
  size_t end;
};

class SplitRegex {
 public:
  /// `pattern` as tokenizer.json has it; `literal` takes it as plain text. Throws Error(kBadInput).
  SplitRegex(const std::string& pattern, bool literal, const std::string& file);

  /// Matches from left to right, none overlapping. `valid_utf8` must be valid UTF-8. Throws
  /// Error(kBadInput) when one match costs more steps than any sane pattern needs.
  void find_all(std::string_view valid_utf8, std::vector<Span>* matches) const;

  /// Throws Error(kBadInput): "regular expression WHY", with the pattern and its file.
  [[noreturn]] void refuse(const std::string& why) const;

 private:
  std::string pattern_;
  std::string file_;
  std::shared_ptr<void> code_;  // pcre2_code
  bool jit_ = false;
};

}  // namespace moe4
