// The two dialects agree on most of what tokenizers use. They differ in \s (PCRE2 counts U+180E),
// in \w (marks and connectors), and in what \p{Han} means (script or script extensions); those are
// rewritten. [A&&[^B]] becomes a look-ahead before [A]. Anything else outside a known list is
// refused rather than matched wrongly.
#include "text/regex_dialect.h"

#include <cctype>
#include <string_view>

#include "base/error.h"

namespace moe4 {
namespace {

class Translator {
 public:
  Translator(const std::string& pattern, const std::string& file)
      : pattern_(pattern), file_(file) {}

  std::string run() {
    while (position_ < pattern_.size()) {
      const char c = pattern_[position_];
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        class_character(c);
      } else if (c == '[') {
        open_class();
      } else if (c == '(') {
        group();
      } else if (c == '{') {
        counted_repeat();
      } else {
        out_ += c;
        ++position_;
      }
    }
    if (in_class_) refuse("a character class that is not closed");
    return out_;
  }

 private:
  [[noreturn]] void refuse(const std::string& construct) const {
    throw_bad_input({.what = "regular expression uses " + construct + ", which is not supported",
                     .file = file_,
                     .tensor = "pre_tokenizer",
                     .found = pattern_});
  }

  char at(size_t offset) const {
    return position_ + offset < pattern_.size() ? pattern_[position_ + offset] : '\0';
  }

  void copy(size_t count) {
    out_ += pattern_.substr(position_, count);
    position_ += count;
  }

  void replace(size_t count, std::string_view text) {
    out_ += text;
    position_ += count;
  }

  void escape() {
    const char c = at(1);
    switch (c) {
      case '\0':
        refuse("a lone backslash");
      case 's':
        return replace(2, "\\p{White_Space}");
      case 'S':
        return replace(2, "\\P{White_Space}");
      case 'w':
        return replace(2, in_class_ ? "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
                                    : "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]");
      case 'W':
        if (in_class_) refuse("\\W inside a character class");
        return replace(2, "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]");
      case 'd':
        return replace(2, "\\p{Nd}");
      case 'D':
        return replace(2, "\\P{Nd}");
      case 'r':
      case 'n':
      case 't':
      case 'f':
        return copy(2);
      case 'p':
      case 'P':
        return property();
      case 'u':
      case 'x':
        return code_point();
      default:
        if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
          refuse(std::string("the escape \\") + c);
        }
        return copy(2);
    }
  }

  // \p{Name} and \p{^Name}; names longer than a general category are scripts.
  void property() {
    const size_t close = pattern_.find('}', position_);
    if (at(2) != '{' || close == std::string::npos) refuse("\\p without {}");
    std::string name = pattern_.substr(position_ + 3, close - position_ - 3);
    bool negated = at(1) == 'P';
    if (!name.empty() && name[0] == '^') {
      negated = !negated;
      name.erase(0, 1);
    }
    for (const char c : name) {
      if (std::isalpha(static_cast<unsigned char>(c)) == 0 && c != '_') {
        refuse("the property \\p{" + name + "}");
      }
    }
    const bool category = name.size() <= 2 || name == "Alphabetic" || name == "White_Space";
    out_ += negated ? "\\P{" : "\\p{";
    if (!category) out_ += "sc:";
    out_ += name + "}";
    position_ = close + 1;
  }

  // \uHHHH and \x{H...}.
  void code_point() {
    const bool braces = at(1) == 'x';
    if (braces && at(2) != '{') refuse("\\x without {}");
    const size_t begin = position_ + (braces ? 3 : 2);
    const size_t end = braces ? pattern_.find('}', begin) : begin + 4;
    if (end == std::string::npos || end > pattern_.size()) refuse("a code point that is cut off");
    const std::string digits = pattern_.substr(begin, end - begin);
    for (const char c : digits) {
      if (std::isxdigit(static_cast<unsigned char>(c)) == 0) refuse("a malformed code point");
    }
    if (digits.empty() || digits.size() > 6) refuse("a malformed code point");
    out_ += "\\x{" + digits + "}";
    position_ = end + (braces ? 1 : 0);
  }

  void open_class() {
    in_class_ = true;
    class_begin_ = out_.size();
    copy(1);
    if (at(0) == '^') copy(1);
    if (at(0) == ']') refuse("a ] that opens a character class");
  }

  void class_character(char c) {
    if (c == '[') refuse("a character class inside a character class");
    if (c == '&' && at(1) == '&') return intersection();
    if (c == ']') in_class_ = false;
    copy(1);
  }

  // [A&&[B]] and [A&&[^B]]: one character, of which a look-ahead asks the second question.
  void intersection() {
    const std::string left = out_.substr(class_begin_) + "]";
    if (at(2) != '[' || left == "[]" || left[1] == '^' || in_intersection_) {
      refuse("a class intersection && other than [A&&[B]] or [A&&[^B]]");
    }
    in_intersection_ = true;
    out_.resize(class_begin_);
    const bool negated = at(3) == '^';
    replace(negated ? 4 : 3, negated ? "(?:(?![" : "(?:(?=[");
    if (at(0) == ']') refuse("a ] that opens a character class");
    while (position_ < pattern_.size() && at(0) != ']') {
      if (at(0) == '\\') {
        escape();
      } else {
        class_character(at(0));
      }
    }
    if (at(0) != ']' || at(1) != ']') refuse("text behind a class intersection");
    replace(2, "])" + left + ")");
    in_intersection_ = false;
    in_class_ = false;
  }

  void group() {
    if (at(1) == '*') refuse("(*");
    if (at(1) == '?') {
      for (const std::string_view known :
           {"(?:", "(?i:", "(?i)", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
        if (std::string_view(pattern_).substr(position_, known.size()) == known) {
          return copy(known.size());
        }
      }
      refuse("the group " + pattern_.substr(position_, 4));
    }
    copy(1);
  }

  void counted_repeat() {
    const size_t close = pattern_.find('}', position_);
    if (close == std::string::npos) refuse("a { that is not closed");
    bool comma = false;
    for (size_t i = position_ + 1; i < close; ++i) {
      const char c = pattern_[i];
      const bool digit = std::isdigit(static_cast<unsigned char>(c)) != 0;
      if ((c == ',' && (comma || i == position_ + 1)) || (c != ',' && !digit)) {
        refuse("the repeat " + pattern_.substr(position_, close + 1 - position_));
      }
      comma = comma || c == ',';
    }
    copy(close + 1 - position_);
    if (at(0) == '+') refuse("{n,m}+");
  }

  const std::string& pattern_;
  const std::string& file_;
  size_t position_ = 0;
  bool in_class_ = false;
  bool in_intersection_ = false;
  size_t class_begin_ = 0;  // in out_
  std::string out_;
};

}  // namespace

std::string translate_regex(const std::string& oniguruma, const std::string& file) {
  return Translator(oniguruma, file).run();
}

}  // namespace moe4
