// Ranges of code points as ranges of bytes, and Unicode's categories.
#include "grammar/code_points.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <string>

#include "text/utf8.h"

namespace moe4::grammar {
namespace {

constexpr char32_t kFirstSurrogate = 0xD800, kLastSurrogate = 0xDFFF;

struct Category {
  const char* long_name;
  const char* name;  // a group's is one letter
};

constexpr std::array<Category, 38> kCategories = {{
    {"Letter", "L"},
    {"Cased_Letter", "LC"},
    {"Uppercase_Letter", "Lu"},
    {"Lowercase_Letter", "Ll"},
    {"Titlecase_Letter", "Lt"},
    {"Modifier_Letter", "Lm"},
    {"Other_Letter", "Lo"},
    {"Mark", "M"},
    {"Nonspacing_Mark", "Mn"},
    {"Spacing_Mark", "Mc"},
    {"Enclosing_Mark", "Me"},
    {"Number", "N"},
    {"Decimal_Number", "Nd"},
    {"digit", "Nd"},
    {"Letter_Number", "Nl"},
    {"Other_Number", "No"},
    {"Punctuation", "P"},
    {"punct", "P"},
    {"Connector_Punctuation", "Pc"},
    {"Dash_Punctuation", "Pd"},
    {"Open_Punctuation", "Ps"},
    {"Close_Punctuation", "Pe"},
    {"Initial_Punctuation", "Pi"},
    {"Final_Punctuation", "Pf"},
    {"Other_Punctuation", "Po"},
    {"Symbol", "S"},
    {"Math_Symbol", "Sm"},
    {"Currency_Symbol", "Sc"},
    {"Modifier_Symbol", "Sk"},
    {"Other_Symbol", "So"},
    {"Separator", "Z"},
    {"Space_Separator", "Zs"},
    {"Line_Separator", "Zl"},
    {"Paragraph_Separator", "Zp"},
    {"Other", "C"},
    {"Control", "Cc"},
    {"Format", "Cf"},
    {"Private_Use", "Co"},
}};

bool has_category(char32_t code_point, std::string_view name) {
  const std::string_view own = utf8proc_category_string(static_cast<utf8proc_int32_t>(code_point));
  if (name == "LC") return own == "Lu" || own == "Ll" || own == "Lt";
  return own.starts_with(name);
}

// A range within which only whole blocks of continuation bytes vary, from byte `at` on.
void add_range(Nfa& nfa, Nfa::State from, Nfa::State to, std::string_view first,
               std::string_view last) {
  const auto low = static_cast<uint8_t>(first.front()), high = static_cast<uint8_t>(last.front());
  if (first.size() == 1) {
    nfa[from].bytes.push_back({low, high, to});
    return;
  }
  const std::string least(first.size() - 1, '\x80'), most(first.size() - 1, '\xBF');
  const auto lead = [&](uint8_t a, uint8_t b, std::string_view rest_first,
                        std::string_view rest_last) {
    const Nfa::State next = nfa.add();
    nfa[from].bytes.push_back({a, b, next});
    add_range(nfa, next, to, rest_first, rest_last);
  };
  const std::string_view first_rest = first.substr(1), last_rest = last.substr(1);
  if (low == high) return lead(low, low, first_rest, last_rest);
  uint8_t middle_first = low, middle_last = high;
  if (first_rest != least) {
    lead(low, low, first_rest, most);
    ++middle_first;
  }
  if (last_rest != most) {
    lead(high, high, least, last_rest);
    --middle_last;
  }
  if (middle_first <= middle_last) lead(middle_first, middle_last, least, most);
}

}  // namespace

CodePoints all_code_points() { return normalised({{0, kLastCodePoint}}); }

CodePoints normalised(CodePoints ranges) {
  std::sort(ranges.begin(), ranges.end());
  CodePoints joined;
  for (const auto& [first, last] : ranges) {
    if (!joined.empty() && first <= joined.back().second + 1) {
      joined.back().second = std::max(joined.back().second, last);
    } else {
      joined.emplace_back(first, last);
    }
  }
  CodePoints result;
  for (const auto& [first, last] : joined) {
    if (last < kFirstSurrogate || first > kLastSurrogate) {
      result.emplace_back(first, last);
      continue;
    }
    if (first < kFirstSurrogate) result.emplace_back(first, kFirstSurrogate - 1);
    if (last > kLastSurrogate) result.emplace_back(kLastSurrogate + 1, last);
  }
  return result;
}

CodePoints complement(const CodePoints& set) {
  CodePoints result;
  char32_t next = 0;
  for (const auto& [first, last] : set) {
    if (first > next) result.emplace_back(next, first - 1);
    next = last + 1;
  }
  if (next <= kLastCodePoint) result.emplace_back(next, kLastCodePoint);
  return normalised(std::move(result));
}

CodePoints category_code_points(std::string_view name) {
  const auto* const found =
      std::find_if(kCategories.begin(), kCategories.end(),
                   [&](const Category& c) { return name == c.name || name == c.long_name; });
  if (found == kCategories.end()) return {};
  CodePoints result;
  for (char32_t c = 0; c <= kLastCodePoint; ++c) {
    if (!has_category(c, found->name)) continue;
    if (!result.empty() && result.back().second + 1 == c) {
      result.back().second = c;
    } else {
      result.emplace_back(c, c);
    }
  }
  return normalised(std::move(result));
}

void add_utf8(Nfa& nfa, Nfa::State from, Nfa::State to, const CodePoints& set) {
  constexpr std::array<char32_t, 4> kLastOfLength = {0x7F, 0x7FF, 0xFFFF, kLastCodePoint};
  for (const auto& [first, last] : set) {
    char32_t begin = first;
    for (const char32_t end : kLastOfLength) {
      if (begin > end || begin > last) continue;
      std::string low, high;
      append_code_point(begin, &low);
      append_code_point(std::min(end, last), &high);
      add_range(nfa, from, to, low, high);
      begin = end + 1;
    }
  }
}

}  // namespace moe4::grammar
