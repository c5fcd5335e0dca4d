// The one exception type of moe4 and the helpers that word its messages.
#pragma once

#include <stdexcept>
#include <string>

namespace moe4 {

/// Doubles as the process exit status of the command line program.
enum class ErrorCode {
  kInternal = 1,     ///< a mistake of ours
  kUsage = 2,        ///< the command line or an API argument is wrong
  kBadInput = 3,     ///< a checkpoint, file or text is bad
  kUnavailable = 4,  ///< this machine cannot: device, memory, backend
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

/// Error(kBadInput) for a tensor that is not there, as opposed to one that cannot be used.
class MissingTensor : public Error {
 public:
  explicit MissingTensor(const std::string& message) : Error(ErrorCode::kBadInput, message) {}
};

/// Everything one line about bad input must say. Empty fields are left out of the sentence.
struct BadInput {
  std::string what;      ///< "truncated header"
  std::string file;      ///< path of the file
  std::string tensor;    ///< tensor, module or JSON key
  std::string expected;  ///< "at least 8 bytes"
  std::string found;     ///< "5 bytes"
  std::string hint;      ///< "download the file again"
};

/// `what (file F, tensor T): expected X, found Y; hint`. Control characters in foreign names are
/// escaped and very long names cut, so that it is one safe line.
std::string to_string(const BadInput& details);
/// Throws Error(kBadInput) with that sentence.
[[noreturn]] void throw_bad_input(const BadInput& details);

/// Quotes text from a file for a one-line message: escapes control bytes, cuts after `max_bytes`.
std::string printable(const std::string& text, size_t max_bytes = 200);

[[noreturn]] void check_failed(const char* expression, const char* file, int line);

}  // namespace moe4

/// For our own mistakes only; bad input has throw_bad_input.
#define MOE4_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::moe4::check_failed(#condition, __FILE__, __LINE__))
