// One character at a time through utf8proc, plus what Unicode's SpecialCasing adds.
#include "text/jinja/letter_case.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <span>

#include "text/jinja/unicode_properties.h"
#include "text/utf8.h"

namespace moe4::jinja {
namespace {

using Folded = std::array<utf8proc_int32_t, 8>;

std::span<const utf8proc_int32_t> folded(char32_t c, Folded* buffer) {
  int boundary = 0;
  const auto length = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), buffer->data(),
                                              buffer->size(), UTF8PROC_CASEFOLD, &boundary);
  return {buffer->data(), static_cast<size_t>(std::clamp<utf8proc_ssize_t>(length, 0, 8))};
}

char32_t simple_upper(utf8proc_int32_t c) { return static_cast<char32_t>(utf8proc_toupper(c)); }
char32_t simple_title(char32_t c) {
  return static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
}

// Characters that become two or three (the sharp s, ligatures) are those whose folding expands.
bool expands(char32_t c, std::span<const utf8proc_int32_t> fold) {
  return fold.size() > 1 && !is_uppercase(c);
}

void append_upper(char32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c));
    return;
  }
  Folded buffer;
  const auto fold = folded(c, &buffer);
  if (expands(c, fold) && !is_titlecase(c)) {
    for (const utf8proc_int32_t part : fold) append_code_point(simple_upper(part), out);
  } else if (is_titlecase(c) && fold.size() > 1) {  // a Greek capital with iota beside it
    for (const utf8proc_int32_t part : fold) append_code_point(simple_upper(part), out);
  } else {
    append_code_point(simple_upper(static_cast<utf8proc_int32_t>(c)), out);
  }
}

void append_title(char32_t c, std::string* out) {
  if (c < 0x80) return append_upper(c, out);
  Folded buffer;
  const auto fold = folded(c, &buffer);
  constexpr char32_t kSharpS = 0xDF;  // utf8proc would make it the capital sharp s
  if (!expands(c, fold) || is_titlecase(c) || (simple_title(c) != c && c != kSharpS)) {
    append_code_point(simple_title(c), out);
    return;
  }
  constexpr char32_t kApostropheN = 0x149;  // both of its characters change
  for (size_t i = 0; i < fold.size(); ++i) {
    const auto part = static_cast<char32_t>(fold[i]);
    const bool iota_below = i > 0 && part == 0x3B9 && c >= 0x1F80;
    if (i == 0 || c == kApostropheN) {
      append_code_point(simple_title(part), out);
    } else {
      append_code_point(iota_below ? 0x345 : part, out);
    }
  }
}

size_t previous_start(std::string_view text, size_t position) {
  do {
    --position;
  } while (position > 0 && (text[position] & 0xC0) == 0x80);
  return position;
}

// Unicode's Final_Sigma: a cased letter before, none after; what is case-ignorable does not count.
bool is_final_sigma(std::string_view text, size_t begin, size_t end) {
  bool cased_before = false;
  while (begin > 0) {
    begin = previous_start(text, begin);
    size_t cursor = begin;
    const char32_t c = next_code_point(text, &cursor);
    cased_before = is_cased(c);
    if (cased_before || !is_case_ignorable(c)) break;
  }
  if (!cased_before) return false;
  while (end < text.size()) {
    const char32_t c = next_code_point(text, &end);
    if (is_cased(c)) return false;
    if (!is_case_ignorable(c)) return true;
  }
  return true;
}

// The character at [begin, end) of `text`.
void append_lower(std::string_view text, size_t begin, size_t end, std::string* out) {
  size_t cursor = begin;
  const char32_t c = next_code_point(text, &cursor);
  if (c == 0x130) {  // the only capital that becomes two characters
    out->append("i\xCC\x87");
  } else if (c == 0x3A3) {
    append_code_point(is_final_sigma(text, begin, end) ? 0x3C2 : 0x3C3, out);
  } else {
    append_code_point(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))),
                      out);
  }
}

template <class Function>
std::string map_characters(std::string_view text, Function function) {
  std::string out;
  out.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    const size_t begin = position;
    const char32_t c = next_code_point(text, &position);
    function(c, begin, position, &out);
  }
  return out;
}

}  // namespace

std::string upper(std::string_view text) {
  return map_characters(text,
                        [](char32_t c, size_t, size_t, std::string* out) { append_upper(c, out); });
}

std::string lower(std::string_view text) {
  return map_characters(text, [&](char32_t, size_t begin, size_t end, std::string* out) {
    append_lower(text, begin, end, out);
  });
}

std::string capitalize(std::string_view text) {
  return map_characters(text, [&](char32_t c, size_t begin, size_t end, std::string* out) {
    if (begin == 0) {
      append_title(c, out);
    } else {
      append_lower(text, begin, end, out);
    }
  });
}

std::string title(std::string_view text) {
  bool inside_word = false;
  return map_characters(text, [&](char32_t c, size_t begin, size_t end, std::string* out) {
    if (inside_word) {
      append_lower(text, begin, end, out);
    } else {
      append_title(c, out);
    }
    inside_word = is_cased(c);
  });
}

std::string swap_case(std::string_view text) {
  return map_characters(text, [&](char32_t c, size_t begin, size_t end, std::string* out) {
    if (is_uppercase(c)) {
      append_lower(text, begin, end, out);
    } else if (is_lowercase(c)) {
      append_upper(c, out);
    } else {
      append_code_point(c, out);
    }
  });
}

std::string fold_case(std::string_view text) {
  return map_characters(text, [](char32_t c, size_t, size_t, std::string* out) {
    Folded buffer;
    for (const utf8proc_int32_t part : folded(c, &buffer)) {
      append_code_point(static_cast<char32_t>(part), out);
    }
  });
}

bool is_upper(std::string_view text) {
  bool any = false;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = next_code_point(text, &position);
    if (is_lowercase(c) || is_titlecase(c)) return false;
    any = any || is_uppercase(c);
  }
  return any;
}

bool is_lower(std::string_view text) {
  bool any = false;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = next_code_point(text, &position);
    if (is_uppercase(c) || is_titlecase(c)) return false;
    any = any || is_lowercase(c);
  }
  return any;
}

bool is_title(std::string_view text) {
  bool any = false;
  bool inside_word = false;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = next_code_point(text, &position);
    const bool capital = is_uppercase(c) || is_titlecase(c);
    const bool small = is_lowercase(c);
    if ((capital && inside_word) || (small && !inside_word)) return false;
    inside_word = capital || small;
    any = any || inside_word;
  }
  return any;
}

}  // namespace moe4::jinja
