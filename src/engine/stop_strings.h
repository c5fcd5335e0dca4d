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
  /// string. With `may_stop` false no stop string ends in this text; one that begins in it may end
  /// in the next.
  std::string push(const std::string& text, bool may_stop = true);
  /// The text held back when generation ends otherwise.
  std::string finish();
  /// A stop string has come; it and what followed were dropped.
  bool found() const { return found_; }
  /// The one that has come; empty before.
  const std::string& which() const { return which_; }

 private:
  std::vector<std::string> strings_;
  std::string pending_;
  size_t passed_ = 0;  // bytes of pending_ in which no stop string may end
  bool found_ = false;
  std::string which_;
};

}  // namespace moe4
