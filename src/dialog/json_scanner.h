// Reads one JSON value out of a stream of text: where it ends, and whether it is one.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace moe4 {

/// Checks RFC 8259's grammar and that \u escapes pair up as UTF-16 does. Control characters in
/// strings, which models write for line breaks, are let through as escapes.
class JsonScanner {
 public:
  enum class Status { kMore, kDone, kBad };
  static constexpr size_t kMaxDepth = 200;

  /// Reads on in `text` (valid UTF-8) up to the end of the value or the first byte that cannot
  /// belong to it; appends what it read to *out, white space before the value too. Returns how many
  /// bytes were used.
  size_t read(std::string_view text, std::string* out);
  /// Of a number at the top, only the byte after it or finish() tells that it is done.
  Status status() const;
  void finish();

 private:
  enum class State {
    kValue,
    kValueOrEnd,  // after [
    kKeyOrEnd,    // after {
    kKey,         // after , in an object
    kColon,
    kAfterValue,  // , or the end of what is open
    kString,
    kEscape,
    kHex,
    kLowEscape,  // a high surrogate was read: a backslash
    kLowU,       // ... and its u
    kMinus,
    kZero,
    kInteger,
    kPoint,
    kFraction,
    kExponent,
    kExponentSign,
    kExponentDigits,
    kLiteral,
    kDone,
    kBad
  };

  // The state after this byte; `used` is set to false when the byte comes after the value.
  State next(char byte, bool* used);
  State begin_value(char byte);
  State in_number(char byte, bool* used);
  State in_hex(char byte);
  State end_value();
  bool number_may_end() const;

  State state_ = State::kValue;
  std::string open_;  // { and [ from the outside in
  bool is_key_ = false;
  bool wants_low_ = false;  // the next \u must be a low surrogate
  int hex_digits_ = 0;
  unsigned hex_ = 0;
  std::string_view literal_;  // what is left of true, false or null
};

/// The JSON string literal of valid UTF-8.
std::string json_quoted(std::string_view text);
/// `text` without the white space around it, if it is one JSON value that begins with one of
/// `first`
/// ("{" for objects); control characters in its strings become escapes.
std::optional<std::string> as_json(std::string_view text, std::string_view first);

}  // namespace moe4
