// Case mapping and character classes come from utf8proc.
#include "text/jinja/py_string.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "text/utf8.h"

namespace moe4::jinja {
namespace {

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool is_letter(char32_t c) {
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool is_uppercase(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LU; }
bool is_lowercase(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL; }
bool is_cased(char32_t c) {
  return is_uppercase(c) || is_lowercase(c) || category(c) == UTF8PROC_CATEGORY_LT;
}

void append_upper(char32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c));
    return;
  }
  // Characters that become two (the sharp s, ligatures) are those whose case folding expands.
  std::array<utf8proc_int32_t, 8> folded{};
  int boundary = 0;
  const auto length = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), folded.data(),
                                              folded.size(), UTF8PROC_CASEFOLD, &boundary);
  if (length > 1 && length <= 8 && !is_uppercase(c)) {
    for (utf8proc_ssize_t i = 0; i < length; ++i) {
      append_code_point(static_cast<char32_t>(utf8proc_toupper(folded[static_cast<size_t>(i)])),
                        out);
    }
    return;
  }
  append_code_point(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))), out);
}

void append_lower(char32_t c, std::string* out) {
  if (c == 0x130) {  // the only capital that becomes two characters
    out->append("i\xCC\x87");
    return;
  }
  append_code_point(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), out);
}

template <class Function>
std::string map_code_points(std::string_view text, Function function) {
  std::string out;
  out.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    function(next_code_point(text, &position), &out);
  }
  return out;
}

std::vector<std::string> split_at_space(std::string_view text, int64_t max_splits) {
  std::vector<std::string> parts;
  text = strip(text, std::nullopt, true, false);
  while (!text.empty()) {
    if (max_splits >= 0 && static_cast<int64_t>(parts.size()) == max_splits) {
      parts.emplace_back(text);
      break;
    }
    size_t end = 0;
    while (end < text.size()) {
      size_t next = end;
      if (is_space(next_code_point(text, &next))) break;
      end = next;
    }
    parts.emplace_back(text.substr(0, end));
    text = strip(text.substr(end), std::nullopt, true, false);
  }
  return parts;
}

size_t previous_start(std::string_view text, size_t position) {
  do {
    --position;
  } while (position > 0 && (text[position] & 0xC0) == 0x80);
  return position;
}

}  // namespace

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

int64_t count_code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

std::vector<std::string_view> code_points(std::string_view text) {
  std::vector<std::string_view> parts;
  for (size_t position = 0; position < text.size();) {
    const size_t begin = position;
    next_code_point(text, &position);
    parts.push_back(text.substr(begin, position - begin));
  }
  return parts;
}

size_t find_bytes(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  // The C library's memmem is a two-way search.
  const void* found = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

size_t rfind_bytes(std::string_view text, std::string_view needle) {
  const std::string reversed_text(text.rbegin(), text.rend());
  const std::string reversed_needle(needle.rbegin(), needle.rend());
  const size_t found = find_bytes(reversed_text, reversed_needle);
  return found == std::string_view::npos ? found : text.size() - needle.size() - found;
}

std::string_view strip(std::string_view text, const std::optional<std::string>& characters,
                       bool left, bool right) {
  std::u32string set;
  if (characters) {
    for (size_t position = 0; position < characters->size();) {
      set.push_back(next_code_point(*characters, &position));
    }
    std::sort(set.begin(), set.end());
  }
  const auto strips = [&](char32_t c) {
    return characters ? std::binary_search(set.begin(), set.end(), c) : is_space(c);
  };
  while (left && !text.empty()) {
    size_t next = 0;
    if (!strips(next_code_point(text, &next))) break;
    text.remove_prefix(next);
  }
  while (right && !text.empty()) {
    const size_t start = previous_start(text, text.size());
    size_t cursor = start;
    if (!strips(next_code_point(text, &cursor))) break;
    text.remove_suffix(text.size() - start);
  }
  return text;
}

std::vector<std::string> split(std::string_view text, const std::optional<std::string>& separator,
                               int64_t max_splits) {
  if (!separator) return split_at_space(text, max_splits);
  std::vector<std::string> parts;
  size_t begin = 0;
  while (max_splits < 0 || static_cast<int64_t>(parts.size()) < max_splits) {
    const size_t found = find_bytes(text, *separator, begin);
    if (found == std::string_view::npos) break;
    parts.emplace_back(text.substr(begin, found - begin));
    begin = found + separator->size();
  }
  parts.emplace_back(text.substr(begin));
  return parts;
}

std::vector<std::string> rsplit(std::string_view text, const std::optional<std::string>& separator,
                                int64_t max_splits) {
  if (max_splits < 0) return split(text, separator, max_splits);
  std::vector<std::string> parts;
  if (!separator) {
    text = strip(text, std::nullopt, false, true);
    while (!text.empty()) {
      if (static_cast<int64_t>(parts.size()) == max_splits) {
        parts.emplace_back(text);
        break;
      }
      size_t begin = text.size();
      while (begin > 0) {
        const size_t start = previous_start(text, begin);
        size_t cursor = start;
        if (is_space(next_code_point(text, &cursor))) break;
        begin = start;
      }
      parts.emplace_back(text.substr(begin));
      text = strip(text.substr(0, begin), std::nullopt, false, true);
    }
  } else {
    // From the right: reverse everything, split, and reverse back.
    const std::string reversed(text.rbegin(), text.rend());
    const std::string reversed_separator(separator->rbegin(), separator->rend());
    parts = split(reversed, reversed_separator, max_splits);
    for (std::string& part : parts) std::reverse(part.begin(), part.end());
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t position = 0; position < text.size();) {
    const size_t line_end = position;
    const char32_t c = next_code_point(text, &position);
    const bool breaks = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                        c == 0x2028 || c == 0x2029;
    if (!breaks) continue;
    if (c == '\r' && position < text.size() && text[position] == '\n') ++position;
    lines.emplace_back(text.substr(begin, (keep_ends ? position : line_end) - begin));
    begin = position;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

std::string replace(std::string_view text, std::string_view old, std::string_view fresh,
                    int64_t count) {
  std::string out;
  if (old.empty()) {  // between all characters
    for (const std::string_view character : code_points(text)) {
      if (count != 0) out += fresh;
      if (count > 0) --count;
      out += character;
    }
    if (count != 0) out += fresh;
    return out;
  }
  size_t begin = 0;
  while (count != 0) {
    const size_t found = find_bytes(text, old, begin);
    if (found == std::string_view::npos) break;
    out.append(text.substr(begin, found - begin)).append(fresh);
    begin = found + old.size();
    --count;
  }
  return out.append(text.substr(begin));
}

std::string upper(std::string_view text) { return map_code_points(text, append_upper); }
std::string lower(std::string_view text) { return map_code_points(text, append_lower); }

std::string capitalize(std::string_view text) {
  size_t first = 0;
  if (text.empty()) return "";
  next_code_point(text, &first);
  return upper(text.substr(0, first)) + lower(text.substr(first));
}

std::string title(std::string_view text) {
  bool inside_word = false;
  return map_code_points(text, [&](char32_t c, std::string* out) {
    if (inside_word) {
      append_lower(c, out);
    } else {
      append_upper(c, out);
    }
    inside_word = is_cased(c);
  });
}

bool all_of_class(std::string_view text, CharacterClass wanted) {
  if (text.empty()) return false;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = next_code_point(text, &position);
    const bool digit = category(c) == UTF8PROC_CATEGORY_ND;
    const bool matches = wanted == CharacterClass::kDigit   ? digit
                         : wanted == CharacterClass::kAlpha ? is_letter(c)
                         : wanted == CharacterClass::kAlnum ? digit || is_letter(c)
                                                            : is_space(c);
    if (!matches) return false;
  }
  return true;
}

bool is_upper(std::string_view text) {
  bool any = false;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = next_code_point(text, &position);
    if (is_cased(c) && !is_uppercase(c)) return false;
    any = any || is_uppercase(c);
  }
  return any;
}

bool is_lower(std::string_view text) {
  bool any = false;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = next_code_point(text, &position);
    if (is_cased(c) && !is_lowercase(c)) return false;
    any = any || is_lowercase(c);
  }
  return any;
}

std::string repr(std::string_view text) {
  const bool double_quotes =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string out(1, quote);
  for (size_t position = 0; position < text.size();) {
    const size_t begin = position;
    const char32_t c = next_code_point(text, &position);
    const auto kind = category(c);
    const bool printable =
        c == ' ' || !(kind >= UTF8PROC_CATEGORY_ZS || kind == UTF8PROC_CATEGORY_CN);
    char escaped[12];
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : (c == '\r' ? "\\r" : "\\t");
    } else if (printable) {
      out += text.substr(begin, position - begin);
    } else {
      const char* format = c < 0x100 ? "\\x%02x" : (c < 0x10000 ? "\\u%04x" : "\\U%08x");
      std::snprintf(escaped, sizeof escaped, format, static_cast<unsigned>(c));
      out += escaped;
    }
  }
  return out += quote;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace moe4::jinja
