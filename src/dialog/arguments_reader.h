// Reads the arguments of a call where they are written as JSON.
#pragma once

#include <string>

#include "dialog/format.h"
#include "dialog/json_scanner.h"

namespace moe4 {

/// An object, which is handed out as it comes; a string that holds an object; or null, for {}.
class ArgumentsReader {
 public:
  /// Appends the arguments' text that has become certain to *piece, also before what is bad.
  Progress read(TextReader& reader, std::string* piece);

 private:
  enum class Kind { kUnknown, kObject, kOther };
  Kind kind_ = Kind::kUnknown;
  JsonScanner scanner_;
  std::string other_;
};

/// Reads on with `scanner`, appending to *out; white space before the value is dropped.
Progress read_json(TextReader& reader, JsonScanner& scanner, std::string* out);

}  // namespace moe4
