// Reads names and values, and tells arguments one by one.
#include "dialog/xml_format.h"

#include <algorithm>

#include "dialog/json_scanner.h"

namespace moe4 {
namespace {

constexpr size_t kMaxNameBytes = 256;

std::string_view trimmed(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kDialogSpace), text.size()));
  return text.substr(0, text.find_last_not_of(kDialogSpace) + 1);
}

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxNameBytes &&
         text.find_first_of("<>\n\"") == std::string_view::npos;
}

}  // namespace

void XmlFormat::reset() {
  tool_.clear();
  key_.clear();
  value_.clear();
  seen_.clear();
}

Progress XmlFormat::read_name(TextReader& reader, std::span<const std::string_view> ends,
                              std::string* name, size_t* end) {
  const auto found = reader.read_until(ends, name, kMaxNameBytes + 1);
  if (!found) return name->size() <= kMaxNameBytes ? Progress::kMore : Progress::kBad;
  *name = std::string(trimmed(*name));
  *end = *found;
  return is_name(*name) ? Progress::kDone : Progress::kBad;
}

Progress XmlFormat::read_value(TextReader& reader, std::string_view close,
                               std::span<const std::string_view> followers) {
  for (;;) {
    if (!closing_) {
      if (!reader.read_until(std::span(&close, 1), &value_)) return Progress::kMore;
      closing_ = true;
      space_.clear();
    }
    const std::string_view rest = reader.rest();
    const size_t space = std::min(rest.find_first_not_of(kDialogSpace), rest.size());
    space_.append(rest.substr(0, space));
    reader.skip(space);
    const std::string_view next = reader.rest();
    bool may_follow = false;
    for (const std::string_view follower : followers) {
      if (next.starts_with(follower)) {
        closing_ = false;
        return Progress::kDone;
      }
      may_follow |= follower.starts_with(next);
    }
    if (may_follow) return Progress::kMore;
    closing_ = false;
    value_ += close;
    value_ += space_;
  }
}

bool XmlFormat::tell_parameter(TextReader& reader, DialogOutput& output, std::string_view json) {
  if (!seen_.insert(key_).second) return false;
  tell(reader, output,
       (seen_.size() == 1 ? "{" : ", ") + json_quoted(key_) + ": " + std::string(json));
  key_.clear();
  value_.clear();
  return true;
}

void XmlFormat::tell_end(TextReader& reader, DialogOutput& output) {
  tell(reader, output, seen_.empty() ? "{}" : "}");
}

}  // namespace moe4
