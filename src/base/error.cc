// Wording of error messages.
#include "base/error.h"

#include <cstdio>

namespace moe4 {

std::string printable(const std::string& text, size_t max_bytes) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (i == max_bytes) {
      out += "...";
      break;
    }
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte < 0x20 || byte == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
      out += escaped;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string to_string(const BadInput& details) {
  std::string message = details.what;
  if (!details.file.empty() || !details.tensor.empty()) {
    message += " (";
    if (!details.file.empty()) message += "file " + printable(details.file, 512);
    if (!details.file.empty() && !details.tensor.empty()) message += ", ";
    if (!details.tensor.empty()) message += printable(details.tensor);
    message += ")";
  }
  if (!details.expected.empty()) message += ": expected " + printable(details.expected, 400);
  if (!details.found.empty()) {
    message += details.expected.empty() ? ": found " : ", found ";
    message += printable(details.found, 400);
  }
  if (!details.hint.empty()) message += "; " + details.hint;
  return message;
}

void throw_bad_input(const BadInput& details) {
  throw Error(ErrorCode::kBadInput, to_string(details));
}

void check_failed(const char* expression, const char* file, int line) {
  throw Error(ErrorCode::kInternal, std::string("internal check failed: ") + expression + " at " +
                                        file + ":" + std::to_string(line));
}

}  // namespace moe4
