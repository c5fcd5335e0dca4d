// A state machine over bytes; bytes of strings, the bulk, are passed over at once.
#include "dialog/json_scanner.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "dialog/text_reader.h"

namespace moe4 {
namespace {

bool is_digit(char byte) { return byte >= '0' && byte <= '9'; }
bool is_space(char byte) { return kDialogSpace.find(byte) != std::string_view::npos; }
bool is_control(char byte) { return static_cast<unsigned char>(byte) < 0x20; }

std::string control_escape(char byte) {
  switch (byte) {
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    default:
      break;
  }
  std::array<char, 8> text{};
  std::snprintf(text.data(), text.size(), "\\u%04x", static_cast<unsigned char>(byte));
  return text.data();
}

}  // namespace

size_t JsonScanner::read(std::string_view text, std::string* out) {
  size_t at = 0;
  while (at < text.size() && status() == Status::kMore) {
    if (state_ == State::kString) {
      size_t end = at;
      while (end < text.size() && text[end] != '"' && text[end] != '\\' && !is_control(text[end]))
        ++end;
      out->append(text.substr(at, end - at));
      at = end;
      if (at == text.size()) break;
      if (is_control(text[at])) {
        *out += control_escape(text[at++]);
        continue;
      }
    }
    bool used = true;
    state_ = next(text[at], &used);
    if (state_ == State::kBad || !used) break;
    out->push_back(text[at++]);
  }
  return at;
}

JsonScanner::Status JsonScanner::status() const {
  if (state_ == State::kDone) return Status::kDone;
  return state_ == State::kBad ? Status::kBad : Status::kMore;
}

void JsonScanner::finish() {
  if (open_.empty() && number_may_end()) state_ = State::kDone;
}

bool JsonScanner::number_may_end() const {
  return state_ == State::kZero || state_ == State::kInteger || state_ == State::kFraction ||
         state_ == State::kExponentDigits;
}

JsonScanner::State JsonScanner::end_value() {
  return open_.empty() ? State::kDone : State::kAfterValue;
}

JsonScanner::State JsonScanner::begin_value(char byte) {
  if (byte == '{' || byte == '[') {
    if (open_.size() == kMaxDepth) return State::kBad;
    open_ += byte;
    return byte == '{' ? State::kKeyOrEnd : State::kValueOrEnd;
  }
  if (byte == '"') {
    is_key_ = false;
    return State::kString;
  }
  if (byte == '-') return State::kMinus;
  if (byte == '0') return State::kZero;
  if (is_digit(byte)) return State::kInteger;
  if (byte == 't') literal_ = "rue";
  if (byte == 'f') literal_ = "alse";
  if (byte == 'n') literal_ = "ull";
  return byte == 't' || byte == 'f' || byte == 'n' ? State::kLiteral : State::kBad;
}

JsonScanner::State JsonScanner::in_number(char byte, bool* used) {
  const bool has_point = state_ == State::kFraction || state_ == State::kExponentDigits;
  const bool has_exponent = state_ == State::kExponentDigits;
  switch (state_) {
    case State::kMinus:
      if (byte == '0') return State::kZero;
      return is_digit(byte) ? State::kInteger : State::kBad;
    case State::kPoint:
      return is_digit(byte) ? State::kFraction : State::kBad;
    case State::kExponent:
      if (byte == '+' || byte == '-') return State::kExponentSign;
      [[fallthrough]];
    case State::kExponentSign:
      return is_digit(byte) ? State::kExponentDigits : State::kBad;
    default:
      break;
  }
  if (is_digit(byte)) return state_ == State::kZero ? State::kBad : state_;
  if (byte == '.' && !has_point) return State::kPoint;
  if ((byte == 'e' || byte == 'E') && !has_exponent) return State::kExponent;
  if (open_.empty()) {
    *used = false;
    return State::kDone;
  }
  state_ = State::kAfterValue;
  return next(byte, used);
}

JsonScanner::State JsonScanner::in_hex(char byte) {
  const size_t digit = std::string_view("0123456789abcdef").find(static_cast<char>(byte | 0x20));
  if (digit == std::string_view::npos || (digit < 10 && !is_digit(byte))) return State::kBad;
  hex_ = hex_ * 16 + static_cast<unsigned>(digit);
  if (++hex_digits_ < 4) return State::kHex;
  const bool high = hex_ >= 0xD800 && hex_ < 0xDC00, low = hex_ >= 0xDC00 && hex_ < 0xE000;
  if (low != wants_low_) return State::kBad;
  wants_low_ = high;
  return high ? State::kLowEscape : State::kString;
}

JsonScanner::State JsonScanner::next(char byte, bool* used) {
  switch (state_) {
    case State::kString:
      if (byte == '\\') return State::kEscape;
      if (byte != '"') return State::kString;
      return is_key_ ? State::kColon : end_value();
    case State::kLowEscape:
      return byte == '\\' ? State::kLowU : State::kBad;
    case State::kLowU:
    case State::kEscape:
      if (byte == 'u') {
        hex_ = 0;
        hex_digits_ = 0;
        return State::kHex;
      }
      if (state_ == State::kLowU) return State::kBad;
      return std::string_view("\"\\/bfnrt").find(byte) != std::string_view::npos ? State::kString
                                                                                 : State::kBad;
    case State::kHex:
      return in_hex(byte);
    case State::kLiteral:
      if (byte != literal_.front()) return State::kBad;
      literal_.remove_prefix(1);
      return literal_.empty() ? end_value() : State::kLiteral;
    case State::kMinus:
    case State::kZero:
    case State::kInteger:
    case State::kPoint:
    case State::kFraction:
    case State::kExponent:
    case State::kExponentSign:
    case State::kExponentDigits:
      return in_number(byte, used);
    default:
      break;
  }
  if (is_space(byte)) return state_;
  switch (state_) {
    case State::kValueOrEnd:
      if (byte != ']') return begin_value(byte);
      open_.pop_back();
      return end_value();
    case State::kValue:
      return begin_value(byte);
    case State::kKeyOrEnd:
      if (byte == '}') {
        open_.pop_back();
        return end_value();
      }
      [[fallthrough]];
    case State::kKey:
      is_key_ = true;
      return byte == '"' ? State::kString : State::kBad;
    case State::kColon:
      return byte == ':' ? State::kValue : State::kBad;
    case State::kAfterValue:
      if (byte == ',') return open_.back() == '{' ? State::kKey : State::kValue;
      if (byte != (open_.back() == '{' ? '}' : ']')) return State::kBad;
      open_.pop_back();
      return end_value();
    default:
      return State::kBad;
  }
}

std::string json_quoted(std::string_view text) {
  std::string quoted = "\"";
  for (const char byte : text) {
    if (byte == '"' || byte == '\\') {
      quoted += '\\';
      quoted += byte;
    } else if (is_control(byte)) {
      quoted += control_escape(byte);
    } else {
      quoted += byte;
    }
  }
  return quoted + '"';
}

std::optional<std::string> as_json(std::string_view text, std::string_view first) {
  text.remove_prefix(std::min(text.find_first_not_of(kDialogSpace), text.size()));
  if (text.empty() || first.find(text.front()) == std::string_view::npos) return std::nullopt;
  JsonScanner scanner;
  std::string value;
  const size_t used = scanner.read(text, &value);
  scanner.finish();
  if (scanner.status() != JsonScanner::Status::kDone ||
      text.find_first_not_of(kDialogSpace, used) != std::string_view::npos)
    return std::nullopt;
  return value;
}

}  // namespace moe4
