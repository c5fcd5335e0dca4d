// Literal prefixes in a trie, the rest pattern by pattern.
#include "checkpoint/name_matcher.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <atomic>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"

namespace moe4 {
namespace {

// Enough for any sane pattern on a module name of 100 bytes, and milliseconds at worst.
constexpr uint32_t kMatchLimit = 100'000;
constexpr size_t kMaxRegexBytes = 4096;

class Regex {
 public:
  Regex(const std::string& pattern, const std::string& file) : pattern_(pattern), file_(file) {
    int code = 0;
    PCRE2_SIZE offset = 0;
    if (pattern.size() <= kMaxRegexBytes) {
      code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C, &code, &offset, nullptr));
    }
    if (code_ == nullptr) {
      PCRE2_UCHAR text[256] = "it is too long";
      if (code != 0) pcre2_get_error_message(code, text, sizeof text);
      throw_bad_input(
          {.what = "regular expression does not compile",
           .file = file,
           .tensor = "pattern re:" + pattern,
           .found = fmt::format("{} at offset {}", reinterpret_cast<char*>(text), offset)});
    }
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // optional: without it pcre2 interprets
    context_.reset(pcre2_match_context_create(nullptr));
    pcre2_set_match_limit(context_.get(), kMatchLimit);
    pcre2_set_depth_limit(context_.get(), 1000);
    pcre2_set_heap_limit(context_.get(), 4096);  // KiB
  }

  bool matches(std::string_view name) const {
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
        pcre2_match_data_create(1, nullptr), &pcre2_match_data_free);
    const int rc = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(),
                               0, 0, data.get(), context_.get());
    if (rc >= 0) return true;
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    throw_bad_input({.what = "regular expression needs too much backtracking",
                     .file = file_,
                     .tensor = "pattern re:" + pattern_,
                     .found = "no answer on module " + std::string(name.substr(0, 200)),
                     .hint = "simplify the pattern"});
  }

 private:
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  };
  std::string pattern_;
  std::string file_;
  std::unique_ptr<pcre2_code, Free> code_;
  std::unique_ptr<pcre2_match_context, Free> context_;
};

struct Pattern {
  std::string glob;  // used when regex is null
  std::unique_ptr<Regex> regex;
  bool matches(std::string_view name) const {
    return regex ? regex->matches(name) : glob_matches(glob, name);
  }
};

// The literal text every match of a glob begins with.
std::string literal_prefix_of_glob(const std::string& glob) {
  return glob.substr(0, glob.find_first_of("*?["));
}

// The same of a regular expression: plain characters and escaped dots up to the first operator. A
// character that a quantifier follows, and anything beside an alternation, is not certain.
std::string literal_prefix_of_regex(const std::string& regex) {
  if (regex.find('|') != std::string::npos) return "";
  std::string prefix;
  size_t i = 0;
  if (regex.starts_with('^')) i = 1;
  while (i < regex.size()) {
    char c = regex[i];
    size_t length = 1;
    if (c == '\\') {
      if (i + 1 == regex.size() || std::string_view(".-_/").find(regex[i + 1]) == std::string::npos)
        break;
      c = regex[i + 1];
      length = 2;
    } else if (std::string_view(".^$*+?()[]{}").find(c) != std::string_view::npos) {
      break;
    }
    const char next = i + length < regex.size() ? regex[i + length] : '\0';
    if (std::string_view("*+?{").find(next) != std::string_view::npos && next != '\0') break;
    prefix += c;
    i += length;
  }
  return prefix;
}

}  // namespace

bool glob_matches(std::string_view glob, std::string_view name) {
  // The position after the last * and the text it had swallowed: one level of backtracking is
  // enough for globs.
  size_t g = 0, n = 0;
  size_t star_g = std::string_view::npos, star_n = 0;
  const auto class_match = [&](size_t& at, char c) -> int {  // -1: not a class after all
    size_t i = at + 1;
    const bool negated = i < glob.size() && glob[i] == '!';
    if (negated) ++i;
    const size_t first = i;
    bool hit = false;
    for (; i < glob.size() && (glob[i] != ']' || i == first); ++i) {
      if (i + 2 < glob.size() && glob[i + 1] == '-' && glob[i + 2] != ']') {
        hit |= static_cast<unsigned char>(glob[i]) <= static_cast<unsigned char>(c) &&
               static_cast<unsigned char>(c) <= static_cast<unsigned char>(glob[i + 2]);
        i += 2;
      } else {
        hit |= glob[i] == c;
      }
    }
    if (i >= glob.size()) return -1;
    at = i + 1;
    return hit != negated;
  };
  while (n < name.size()) {
    bool advanced = false;
    if (g < glob.size()) {
      if (glob[g] == '*') {
        star_g = ++g;
        star_n = n;
        continue;
      }
      if (glob[g] == '[') {
        size_t after = g;
        const int hit = class_match(after, name[n]);
        if (hit > 0 || (hit < 0 && name[n] == '[')) {
          g = hit > 0 ? after : g + 1;
          advanced = true;
        }
      } else if (glob[g] == '?' || glob[g] == name[n]) {
        ++g;
        advanced = true;
      }
    }
    if (advanced) {
      ++n;
    } else if (star_g != std::string_view::npos) {
      g = star_g;
      n = ++star_n;
    } else {
      return false;
    }
  }
  while (g < glob.size() && glob[g] == '*') ++g;
  return g == glob.size();
}

struct NameMatcher::Impl {
  std::unordered_set<std::string> exact;
  std::unordered_set<std::string> seen;  // patterns already added
  // Patterns by their literal prefix; matching probes the prefixes of the name of those lengths
  // that occur.
  std::unordered_map<std::string, std::vector<Pattern>> by_prefix;
  std::vector<size_t> prefix_lengths;  // distinct, unordered
  std::vector<Pattern> floating;
  mutable std::atomic<int64_t> tried{0};

  void add(Pattern pattern, const std::string& prefix, const std::string& text,
           const std::string& file) {
    if (!seen.insert(text).second) return;
    std::vector<Pattern>& bucket = prefix.empty() ? floating : by_prefix[prefix];
    if (bucket.size() == kMaxAlike) {
      throw_bad_input({.what = "too many patterns with the same beginning",
                       .file = file,
                       .tensor = "pattern " + text,
                       .expected = fmt::format("at most {} that begin '{}'", kMaxAlike, prefix)});
    }
    bucket.push_back(std::move(pattern));
    if (prefix.empty()) return;
    bool known = false;
    for (size_t length : prefix_lengths) known |= length == prefix.size();
    if (!known) prefix_lengths.push_back(prefix.size());
  }
};

NameMatcher::NameMatcher() : impl_(std::make_unique<Impl>()) {}
NameMatcher::~NameMatcher() = default;
NameMatcher::NameMatcher(NameMatcher&&) noexcept = default;
NameMatcher& NameMatcher::operator=(NameMatcher&&) noexcept = default;

void NameMatcher::add_exact(std::string name) { impl_->exact.insert(std::move(name)); }

void NameMatcher::add_glob(const std::string& glob, const std::string& file) {
  const std::string prefix = literal_prefix_of_glob(glob);
  if (prefix.size() == glob.size()) return add_exact(glob);
  impl_->add({.glob = glob}, prefix, glob, file);
}

void NameMatcher::add_regex(const std::string& regex, const std::string& file) {
  impl_->add({.regex = std::make_unique<Regex>(regex, file)}, literal_prefix_of_regex(regex),
             "re:" + regex, file);
}

bool NameMatcher::empty() const {
  return impl_->exact.empty() && impl_->by_prefix.empty() && impl_->floating.empty();
}

bool NameMatcher::matches(std::string_view name) const {
  std::string key(name);
  if (impl_->exact.contains(key)) return true;
  for (size_t length : impl_->prefix_lengths) {
    if (length > name.size()) continue;
    const auto it = impl_->by_prefix.find(key.substr(0, length));
    if (it == impl_->by_prefix.end()) continue;
    for (const Pattern& pattern : it->second) {
      ++impl_->tried;
      if (pattern.matches(name)) return true;
    }
  }
  for (const Pattern& pattern : impl_->floating) {
    ++impl_->tried;
    if (pattern.matches(name)) return true;
  }
  return false;
}

int64_t NameMatcher::patterns_tried() const { return impl_->tried; }

}  // namespace moe4
