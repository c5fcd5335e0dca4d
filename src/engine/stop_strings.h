// Watches generated text for stop strings, however tokens cut them.
#pragma once

#include <string>
#include <vector>

namespace moe4 {

class StopStrings {
 public:
  /// Empty strings are ignored.
  explicit StopStrings(const std::vector<std::string>& strings);

  /// Adds text and returns what can be shown: nothing that may still turn out to begin a stop
  /// string.
  std::string push(const std::string& text);
  /// The text held back when generation ends otherwise.
  std::string finish();
  /// A stop string has come; it and what followed were dropped.
  bool found() const { return found_; }

 private:
  std::vector<std::string> strings_;
  std::string pending_;
  bool found_ = false;
};

}  // namespace moe4
