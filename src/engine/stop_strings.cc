// Search in the text not shown yet.
#include "engine/stop_strings.h"

#include <algorithm>
#include <utility>

namespace moe4 {

StopStrings::StopStrings(const std::vector<std::string>& strings) : strings_(strings) {
  std::erase(strings_, "");
}

std::string StopStrings::push(const std::string& text, bool may_stop) {
  if (found_) return "";
  pending_ += text;
  if (!may_stop) passed_ = pending_.size();
  size_t cut = std::string::npos;
  for (const std::string& stop : strings_) {
    const size_t first = passed_ >= stop.size() ? passed_ - stop.size() + 1 : 0;
    const size_t at = pending_.find(stop, first);
    if (at < cut) {
      cut = at;
      which_ = stop;
    }
  }
  if (cut != std::string::npos) {
    found_ = true;
    std::string shown = pending_.substr(0, cut);
    pending_.clear();
    return shown;
  }
  // Hold back the longest end of the text that begins a stop string.
  size_t held = 0;
  for (const std::string& stop : strings_) {
    for (size_t n = std::min(stop.size() - 1, pending_.size()); n > held; --n) {
      if (pending_.compare(pending_.size() - n, n, stop, 0, n) == 0) {
        held = n;
        break;
      }
    }
  }
  std::string shown = pending_.substr(0, pending_.size() - held);
  pending_.erase(0, shown.size());
  passed_ -= std::min(passed_, shown.size());
  return shown;
}

std::string StopStrings::finish() { return std::exchange(pending_, {}); }

}  // namespace moe4
