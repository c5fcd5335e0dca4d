// Searching, splitting and quoting.
#include "text/jinja/py_string.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "text/jinja/unicode_properties.h"
#include "text/utf8.h"

namespace moe4::jinja {
namespace {

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

// As in a literal of Python.
void append_escape(char32_t c, std::string* out) {
  char escaped[12];
  const char* format = c < 0x100 ? "\\x%02x" : (c < 0x10000 ? "\\u%04x" : "\\U%08x");
  std::snprintf(escaped, sizeof escaped, format, static_cast<unsigned>(c));
  *out += escaped;
}

}  // namespace

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

size_t code_point_offset(std::string_view text, int64_t count) {
  size_t position = 0;
  for (; count > 0 && position < text.size(); --count) next_code_point(text, &position);
  return position;
}

std::string_view first_code_points(std::string_view text, int64_t count) {
  return count < 0 ? text : text.substr(0, code_point_offset(text, count));
}

size_t find_bytes(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  // memmem may not be given a null pointer, which an empty view may hold.
  if (text.size() - from < needle.size()) return std::string_view::npos;
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

bool all_of(std::string_view text, bool (*predicate)(char32_t)) {
  for (size_t position = 0; position < text.size();) {
    if (!predicate(next_code_point(text, &position))) return false;
  }
  return !text.empty();
}

std::string repr(std::string_view text) {
  const bool double_quotes =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string out(1, quote);
  for (size_t position = 0; position < text.size();) {
    const size_t begin = position;
    const char32_t c = next_code_point(text, &position);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : (c == '\r' ? "\\r" : "\\t");
    } else if (is_printable(c)) {
      out += text.substr(begin, position - begin);
    } else {
      append_escape(c, &out);
    }
  }
  return out += quote;
}

std::string escape_non_ascii(std::string_view text) {
  std::string out;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = next_code_point(text, &position);
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else {
      append_escape(c, &out);
    }
  }
  return out;
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
