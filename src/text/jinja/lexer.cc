// Follows the rules of jinja2/lexer.py: tags, the whitespace they swallow, and Python's literals.
#include "text/jinja/lexer.h"

#include <array>
#include <cctype>
#include <charconv>
#include <optional>

#include "text/jinja/py_string.h"
#include "text/utf8.h"

namespace moe4::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_byte(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || (c & 0x80) != 0;
}

// One kind of newline, and no newline at the very end.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_newlines(source)) {}

  std::vector<Token> run() {
    while (position_ < source_.size()) root();
    push(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) { throw SyntaxError{message, line()}; }

  int line() {
    for (; counted_ < position_ && counted_ < source_.size(); ++counted_) {
      line_ += source_[counted_] == '\n' ? 1 : 0;
    }
    return line_;
  }

  void push(TokenKind kind, std::string text) {
    tokens_.push_back({.kind = kind, .line = line(), .text = std::move(text)});
  }

  std::string_view rest() const { return std::string_view(source_).substr(position_); }
  bool at(std::string_view text) const { return rest().starts_with(text); }

  void skip_space() {
    position_ = source_.size() - strip(rest(), std::nullopt, true, false).size();
  }

  // Text up to the next tag, then the tag.
  void root() {
    size_t tag = position_;
    while (tag + 1 < source_.size() &&
           !(source_[tag] == '{' &&
             (source_[tag + 1] == '%' || source_[tag + 1] == '{' || source_[tag + 1] == '#'))) {
      ++tag;
    }
    if (tag + 1 >= source_.size()) {
      push(TokenKind::kData, source_.substr(position_));
      position_ = source_.size();
      return;
    }
    const char kind = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    push_data(std::string_view(source_).substr(position_, tag - position_), sign, kind == '{');
    position_ = tag + 2 + (sign == '-' || sign == '+' ? 1 : 0);
    if (kind == '#') {
      comment();
    } else if (kind == '{') {
      push(TokenKind::kVariableBegin, "{{");
      tag_body(true);
    } else if (!raw_block()) {
      push(TokenKind::kBlockBegin, "{%");
      tag_body(false);
    }
  }

  // Data before a tag: "-" strips all white space, otherwise a block strips its own indentation.
  void push_data(std::string_view data, char sign, bool variable) {
    if (sign == '-') {
      data = strip(data, std::nullopt, false, true);
    } else if (sign != '+' && !variable) {
      const size_t newline = data.rfind('\n');
      const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
      const bool line_starts = begin > 0 || position_ == 0 || source_[position_ - 1] == '\n';
      if (line_starts && strip(data.substr(begin), std::nullopt, true, false).empty()) {
        data = data.substr(0, begin);
      }
    }
    if (!data.empty()) push(TokenKind::kData, std::string(data));
  }

  // After `end`, which begins at position_ with an optional sign: swallows what the sign says.
  bool close_tag(std::string_view end, bool trims_newline) {
    const bool minus = at("-") && rest().substr(1).starts_with(end);
    const bool plus = trims_newline && at("+") && rest().substr(1).starts_with(end);
    if (!minus && !plus && !at(end)) return false;
    position_ += end.size() + (minus || plus ? 1 : 0);
    if (minus) {
      skip_space();
    } else if (trims_newline && !plus && at("\n")) {
      ++position_;
    }
    return true;
  }

  void comment() {
    while (position_ < source_.size()) {
      if (close_tag("#}", true)) return;
      ++position_;
    }
    fail("missing end of comment tag");
  }

  // {% raw %} ... {% endraw %}; false and no change when this is another block.
  bool raw_block() {
    const size_t saved = position_;
    skip_space();
    const bool raw = at("raw");
    position_ += raw ? 3 : 0;
    skip_space();
    if (!raw || !(at("%}") || at("-%}"))) {
      position_ = saved;
      return false;
    }
    close_tag("%}", false);
    const size_t begin = position_;
    for (; position_ < source_.size(); ++position_) {
      if (!at("{%")) continue;
      const size_t tag = position_;
      position_ += 2;
      const char sign = at("-") || at("+") ? source_[position_++] : '\0';
      skip_space();
      if (at("endraw")) {
        position_ += 6;
        skip_space();
        if (close_tag("%}", true)) {
          const size_t after = position_;
          position_ = begin;
          push_data(std::string_view(source_).substr(begin, tag - begin), sign, false);
          position_ = after;
          return true;
        }
      }
      position_ = tag;
    }
    fail("missing end of raw directive");
  }

  void tag_body(bool variable) {
    std::string open;  // brackets still to be closed
    while (true) {
      if (open.empty() && close_tag(variable ? "}}" : "%}", !variable)) {
        push(variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, variable ? "}}" : "%}");
        return;
      }
      if (position_ >= source_.size()) fail("unexpected end of template inside a tag");
      const size_t before = position_;
      skip_space();
      if (position_ != before) continue;
      const char c = source_[position_];
      if (is_digit(c)) {
        number();
      } else if (is_name_byte(c)) {
        size_t end = position_;
        while (end < source_.size() && is_name_byte(source_[end])) ++end;
        push(TokenKind::kName, source_.substr(position_, end - position_));
        position_ = end;
      } else if (c == '\'' || c == '"') {
        string_literal(c);
      } else {
        operator_token(&open);
      }
    }
  }

  void operator_token(std::string* open) {
    static constexpr std::array<std::string_view, 6> kPairs = {"//", "**", "==", "!=", ">=", "<="};
    for (const std::string_view pair : kPairs) {
      if (at(pair)) {
        push(TokenKind::kOperator, std::string(pair));
        position_ += 2;
        return;
      }
    }
    const char c = source_[position_];
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      fail(std::string("unexpected character '") + c + "'");
    }
    if (c == '(' || c == '[' || c == '{') {
      open->push_back(c == '(' ? ')' : (c == '[' ? ']' : '}'));
    } else if (c == ')' || c == ']' || c == '}') {
      if (open->empty() || open->back() != c) fail(std::string("unexpected '") + c + "'");
      open->pop_back();
    }
    push(TokenKind::kOperator, std::string(1, c));
    ++position_;
  }

  // Digits with single underscores between them.
  size_t digits(size_t from) const {
    size_t end = from;
    while (end < source_.size() &&
           (is_digit(source_[end]) || (source_[end] == '_' && end > from &&
                                       end + 1 < source_.size() && is_digit(source_[end + 1])))) {
      ++end;
    }
    return end;
  }

  void number() {
    if (source_[position_] == '0' && position_ + 1 < source_.size()) {
      const auto base_mark = static_cast<char>(std::tolower(source_[position_ + 1]));
      const int base = base_mark == 'x' ? 16 : (base_mark == 'o' ? 8 : (base_mark == 'b' ? 2 : 10));
      if (base != 10) {
        size_t end = position_ + 2;
        while (end < source_.size() && is_name_byte(source_[end])) ++end;
        return push_integer(end, position_ + 2, base);
      }
    }
    size_t end = digits(position_);
    bool is_float = false;
    // "a.1.2" is two subscripts, not one and a fraction.
    const bool after_dot = position_ > 0 && source_[position_ - 1] == '.';
    if (!after_dot && end + 1 < source_.size() && source_[end] == '.' &&
        is_digit(source_[end + 1])) {
      end = digits(end + 1);
      is_float = true;
    }
    if (!after_dot && end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) {
        ++exponent;
      }
      if (digits(exponent) > exponent) {
        end = digits(exponent);
        is_float = true;
      }
    }
    if (!is_float) return push_integer(end, position_, 10);
    const std::string text = replace(source_.substr(position_, end - position_), "_", "", -1);
    push(TokenKind::kFloat, text);
    double number = 0;
    const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
    if (read.ec != std::errc()) fail("number out of range");
    tokens_.back().number = Value(number);
    position_ = end;
  }

  void push_integer(size_t end, size_t digits_begin, int base) {
    const std::string text = replace(source_.substr(digits_begin, end - digits_begin), "_", "", -1);
    push(TokenKind::kInteger, text);
    const bool leading_zero =
        base == 10 && text[0] == '0' && text.find_first_not_of('0') != std::string::npos;
    const auto number = read_integer(text, base);
    if (leading_zero || !number) fail("integer is malformed");
    tokens_.back().number = Value::integer(*number);
    position_ = end;
  }

  std::optional<BigInt> read_integer(const std::string& text, int base) {
    try {
      return BigInt::parse(text, base);
    } catch (const TemplateError& error) {
      fail(error.what());
    }
  }

  void string_literal(char quote) {
    const int begin_line = line();
    ++position_;
    std::string value;
    while (position_ < source_.size() && source_[position_] != quote) {
      if (source_[position_] == '\\') {
        escape(&value);
      } else {
        value += source_[position_++];
      }
    }
    if (position_ >= source_.size()) throw SyntaxError{"string is not closed", begin_line};
    ++position_;
    push(TokenKind::kString, std::move(value));
  }

  char32_t hex(size_t count) {
    char32_t code_point = 0;
    const char* begin = source_.data() + position_;
    const size_t available = std::min(count, source_.size() - position_);
    uint32_t parsed = 0;
    const auto read = std::from_chars(begin, begin + available, parsed, 16);
    if (read.ec != std::errc() || read.ptr != begin + count) fail("truncated escape in a string");
    code_point = parsed;
    position_ += count;
    if (code_point > 0x10FFFF) fail("illegal Unicode character in a string");
    return code_point;
  }

  void escape(std::string* value) {
    ++position_;  // the backslash
    if (position_ >= source_.size()) return;
    const char c = source_[position_++];
    const size_t simple = std::string_view("\\'\"abfnrtv").find(c);
    if (simple != std::string_view::npos) {
      *value += "\\'\"\a\b\f\n\r\t\v"[simple];
    } else if (c == '\n') {
      return;  // a continued line
    } else if (c >= '0' && c <= '7') {
      char32_t code_point = static_cast<char32_t>(c - '0');
      for (int i = 0; i < 2 && position_ < source_.size() && source_[position_] >= '0' &&
                      source_[position_] <= '7';
           ++i) {
        code_point = code_point * 8 + static_cast<char32_t>(source_[position_++] - '0');
      }
      append_code_point(code_point, value);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      unicode_escape(hex(c == 'x' ? 2 : (c == 'u' ? 4 : 8)), value);
    } else if (c == 'N') {
      fail("the escape \\N{...} is not supported");
    } else {
      *value += '\\';
      *value += c;
    }
  }

  // Two surrogates make one character; a lone one cannot be written in UTF-8.
  void unicode_escape(char32_t code_point, std::string* value) {
    if (code_point >= 0xD800 && code_point < 0xDC00 && at("\\u")) {
      const size_t saved = position_;
      position_ += 2;
      const char32_t low = hex(4);
      if (low >= 0xDC00 && low < 0xE000) {
        code_point = 0x10000 + ((code_point - 0xD800) << 10) + (low - 0xDC00);
      } else {
        position_ = saved;
      }
    }
    const bool lone = code_point >= 0xD800 && code_point < 0xE000;
    append_code_point(lone ? 0xFFFD : code_point, value);
  }

  const std::string source_;
  size_t position_ = 0;
  size_t counted_ = 0;  // bytes whose newlines are in line_
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace moe4::jinja
