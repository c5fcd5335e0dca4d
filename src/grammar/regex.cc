// Parser of regular expressions, and their NFA.
#include "grammar/regex.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "grammar/code_points.h"
#include "text/utf8.h"

namespace moe4::grammar {
namespace {

constexpr int kMaxDepth = 100;  // of groups
constexpr int64_t kMaxRepeat = 100'000;

struct Node {
  enum class Kind { kSet, kSequence, kChoice, kRepeat, kBegin, kEnd };
  static constexpr int64_t kUnlimited = -1;

  Kind kind = Kind::kSequence;
  CodePoints set;
  std::vector<Node> children;
  int64_t min = 0, max = kUnlimited;  // of kRepeat
};

const CodePoints& digits() {
  static const CodePoints set = {{'0', '9'}};
  return set;
}
const CodePoints& word_characters() {
  static const CodePoints set = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
  return set;
}
const CodePoints& white_space() {
  static const CodePoints set = {
      {0x09, 0x0D},     {0x20, 0x20},     {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
      {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
  return set;
}
const CodePoints& line_ends() {
  static const CodePoints set = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
  return set;
}

class Parser {
 public:
  explicit Parser(std::string_view pattern) : pattern_(pattern) {
    if (utf8_lossy(pattern) != pattern) {
      throw Error(ErrorCode::kUsage, "regular expression: it is no valid UTF-8");
    }
  }

  Node parse() {
    Node node = choice(0);
    if (!at_end()) fail("a ')' without its '('");
    return node;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kUsage, fmt::format("regular expression '{}', position {}: {}",
                                               printable(std::string(pattern_), 120), at_, what));
  }

  bool at_end() const { return at_ == pattern_.size(); }
  bool sees(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!sees(text)) return false;
    at_ += text.size();
    return true;
  }
  char32_t next() {
    if (at_end()) fail("it ends too early");
    return next_code_point(pattern_, &at_);
  }

  Node choice(int depth) {
    if (depth > kMaxDepth) fail(fmt::format("groups nest deeper than {}", kMaxDepth));
    Node node{.kind = Node::Kind::kChoice};
    do {
      node.children.push_back(sequence(depth));
    } while (take("|"));
    if (node.children.size() == 1) return std::move(node.children.front());
    return node;
  }

  Node sequence(int depth) {
    Node node{.kind = Node::Kind::kSequence};
    while (!at_end() && !sees("|") && !sees(")")) {
      Node piece = atom(depth);
      if (auto repeat = quantifier(piece)) piece = std::move(*repeat);
      node.children.push_back(std::move(piece));
    }
    return node;
  }

  // The repeated piece, or nothing where no quantifier follows.
  std::optional<Node> quantifier(Node& piece) {
    const size_t start = at_;
    int64_t min = 0, max = Node::kUnlimited;
    if (take("+")) {
      min = 1;
    } else if (take("?")) {
      max = 1;
    } else if (!take("*") && !counts(min, max)) {
      return std::nullopt;
    }
    if (piece.kind == Node::Kind::kBegin || piece.kind == Node::Kind::kEnd) {
      at_ = start;
      fail("an anchor cannot be repeated");
    }
    if (take("+")) fail("possessive repeats are not supported");
    take("?");  // lazy: the same texts
    if (sees("*") || sees("+") || sees("?")) fail("a repeat of a repeat; use a group");
    Node repeat{.kind = Node::Kind::kRepeat, .min = min, .max = max};
    repeat.children.push_back(std::move(piece));
    return repeat;
  }

  // {n}, {n,}, {n,m}; anything else in braces is text.
  bool counts(int64_t& min, int64_t& max) {
    const size_t start = at_;
    if (!take("{")) return false;
    const std::optional<int64_t> low = number();
    if (!low) {
      at_ = start;
      return false;
    }
    min = max = *low;
    if (take(",")) {
      const std::optional<int64_t> high = number();
      max = high.value_or(Node::kUnlimited);
      if (high && *high < min) fail("a repeat whose upper limit is below the lower one");
    }
    if (!take("}")) {
      at_ = start;
      return false;
    }
    return true;
  }

  std::optional<int64_t> number() {
    std::optional<int64_t> value;
    while (!at_end() && pattern_[at_] >= '0' && pattern_[at_] <= '9') {
      value = value.value_or(0) * 10 + (pattern_[at_++] - '0');
      if (*value > kMaxRepeat) fail(fmt::format("a repeat above {}", kMaxRepeat));
    }
    return value;
  }

  Node atom(int depth) {
    if (sees("*") || sees("+") || sees("?")) fail("nothing to repeat");
    {
      int64_t min = 0, max = 0;
      if (sees("{") && counts(min, max)) fail("nothing to repeat");
    }
    if (take("^")) return {.kind = Node::Kind::kBegin};
    if (take("$")) return {.kind = Node::Kind::kEnd};
    if (take("(")) return group(depth);
    if (take("[")) return set_node(bracket());
    if (take(".")) return set_node(complement(line_ends()));
    if (take("\\")) {
      if (take("A")) return {.kind = Node::Kind::kBegin};
      if (take("z") || take("Z")) return {.kind = Node::Kind::kEnd};
      if (sees("b") || sees("B")) fail("word boundaries are not supported");
      return set_node(escape());
    }
    const char32_t c = next();
    return set_node({{c, c}});
  }

  static Node set_node(CodePoints set) { return {.kind = Node::Kind::kSet, .set = std::move(set)}; }

  Node group(int depth) {
    if (take("?")) {
      if (sees("=") || sees("!") || sees("<=") || sees("<!")) {
        fail("look-around is not supported");
      }
      if (take("P<") || take("<")) {
        while (next() != '>') {
        }
      } else if (!take(":")) {
        fail("only (?:...) and named groups are supported, no flags or conditions");
      }
    }
    Node node = choice(depth + 1);
    if (!take(")")) fail("a '(' without its ')'");
    return node;
  }

  int hex_digit(char32_t c) const {
    if (c >= '0' && c <= '9') return static_cast<int>(c - '0');
    if (c >= 'a' && c <= 'f') return static_cast<int>(c - 'a') + 10;
    if (c >= 'A' && c <= 'F') return static_cast<int>(c - 'A') + 10;
    fail("expected a hexadecimal digit");
  }
  char32_t hex(int count) {
    char32_t value = 0;
    for (int i = 0; i < count; ++i) value = value * 16 + static_cast<char32_t>(hex_digit(next()));
    return value;
  }

  char32_t unicode_escape() {
    if (take("{")) {
      char32_t value = 0;
      do {
        value = value * 16 + static_cast<char32_t>(hex_digit(next()));
        if (value > kLastCodePoint) fail("no such code point");
      } while (!take("}"));
      return value;
    }
    const char32_t high = hex(4);
    if (high >= 0xD800 && high < 0xDC00 && take("\\u")) {
      const char32_t low = hex(4);
      if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
      return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    }
    if (high >= 0xD800 && high <= 0xDFFF) fail("half of a surrogate pair");
    return high;
  }

  CodePoints property(bool negated) {
    if (!take("{")) fail("expected {category} after \\p");
    const size_t end = pattern_.find('}', at_);
    if (end == std::string_view::npos) fail("\\p{ without its }");
    std::string_view name = pattern_.substr(at_, end - at_);
    for (const std::string_view key : {"General_Category=", "gc="}) {
      if (name.starts_with(key)) name.remove_prefix(key.size());
    }
    CodePoints set = category_code_points(name);
    if (set.empty()) fail("only Unicode's general categories are known to \\p");
    at_ = end + 1;
    return negated ? complement(set) : set;
  }

  // What follows a backslash, in and outside of brackets.
  CodePoints escape() {
    const char32_t c = next();
    const auto one = [](char32_t code) { return CodePoints{{code, code}}; };
    switch (c) {
      case 'd':
        return digits();
      case 'D':
        return complement(digits());
      case 'w':
        return word_characters();
      case 'W':
        return complement(word_characters());
      case 's':
        return white_space();
      case 'S':
        return complement(white_space());
      case 'p':
        return property(false);
      case 'P':
        return property(true);
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 't':
        return one('\t');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case 'x':
        return one(hex(2));
      case 'u':
        return one(unicode_escape());
      case 'c': {
        const char32_t letter = next();
        if (!((letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z'))) {
          fail("expected a letter after \\c");
        }
        return one(letter % 32);
      }
      case '0':
        if (!at_end() && pattern_[at_] >= '0' && pattern_[at_] <= '9') {
          fail("octal escapes are not supported");
        }
        return one(0);
      default:
        break;
    }
    if (c >= '1' && c <= '9') fail("backreferences are not supported");
    if (c == 'k') fail("backreferences are not supported");
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
      fail(fmt::format("the escape \\{} is not known", static_cast<char>(c)));
    }
    return one(c);
  }

  CodePoints bracket_item() {
    if (take("\\")) {
      if (take("b")) return {{0x08, 0x08}};
      return escape();
    }
    const char32_t c = next();
    return {{c, c}};
  }

  CodePoints bracket() {
    const bool negated = take("^");
    CodePoints set;
    while (!take("]")) {
      const CodePoints first = bracket_item();
      const bool single = first.size() == 1 && first.front().first == first.front().second;
      if (single && sees("-") && !sees("-]")) {
        take("-");
        const CodePoints last = bracket_item();
        if (last.size() != 1 || last.front().first != last.front().second) {
          fail("a range that ends in a class");
        }
        if (last.front().first < first.front().first) fail("a range out of order");
        set.emplace_back(first.front().first, last.front().first);
      } else {
        set.insert(set.end(), first.begin(), first.end());
      }
    }
    set = normalised(std::move(set));
    return negated ? complement(set) : set;
  }

  std::string_view pattern_;
  size_t at_ = 0;
};

// Adds the ways of `node` from `from`; returns where they end.
Nfa::State emit(Nfa& nfa, const Node& node, Nfa::State from) {
  const Nfa::State to = nfa.add();
  switch (node.kind) {
    case Node::Kind::kSet:
      add_utf8(nfa, from, to, node.set);
      return to;
    case Node::Kind::kBegin:
      nfa[from].at_begin.push_back(to);
      return to;
    case Node::Kind::kEnd:
      nfa[from].at_end.push_back(to);
      return to;
    case Node::Kind::kChoice:
      for (const Node& child : node.children) {
        const Nfa::State end = emit(nfa, child, from);
        nfa[end].empty.push_back(to);
      }
      return to;
    case Node::Kind::kSequence: {
      Nfa::State at = from;
      for (const Node& child : node.children) at = emit(nfa, child, at);
      nfa[at].empty.push_back(to);
      return to;
    }
    case Node::Kind::kRepeat: {
      const Node& child = node.children.front();
      Nfa::State at = from;
      for (int64_t i = 0; i < node.min; ++i) at = emit(nfa, child, at);
      if (node.max == Node::kUnlimited) {
        const Nfa::State loop = nfa.add();
        nfa[at].empty.push_back(loop);
        const Nfa::State end = emit(nfa, child, loop);
        nfa[end].empty.push_back(loop);
        nfa[loop].empty.push_back(to);
        return to;
      }
      nfa[at].empty.push_back(to);
      for (int64_t i = node.min; i < node.max; ++i) {
        at = emit(nfa, child, at);
        nfa[at].empty.push_back(to);
      }
      return to;
    }
  }
  return to;
}

}  // namespace

Dfa regex_language(std::string_view pattern, RegexMatch match) {
  const Node node = Parser(pattern).parse();
  Nfa nfa;
  const Nfa::State begin = nfa.add();
  if (match == RegexMatch::kWhole) return determinise(nfa, begin, emit(nfa, node, begin));
  nfa[begin].bytes.push_back({0, 255, begin});
  const Nfa::State end = emit(nfa, node, begin);
  nfa[end].is_universal = true;
  return determinise(nfa, begin, end);
}

}  // namespace moe4::grammar
