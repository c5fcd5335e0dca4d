// Search for tags, each byte looked at a bounded number of times.
#include "dialog/text_reader.h"

#include <algorithm>
#include <utility>

namespace moe4 {

void TextReader::append(std::string_view text) {
  if (at_ > buffer_.size() / 2) {
    buffer_.erase(0, at_);
    at_ = 0;
  }
  buffer_ += text;
}

void TextReader::skip(size_t bytes) {
  if (recording_) record_.append(buffer_, at_, bytes);
  at_ += bytes;
}

std::optional<size_t> TextReader::read_until(std::span<const std::string_view> tags,
                                             std::string* before, size_t most) {
  std::string first_bytes;
  for (const std::string_view tag : tags) first_bytes += tag.front();
  const std::string_view text = rest();
  const size_t room = most - std::min(before->size(), most);
  size_t at = text.find_first_of(first_bytes);
  for (; at < std::min(room, text.size()); at = text.find_first_of(first_bytes, at + 1)) {
    const std::string_view here = text.substr(at);
    bool may_begin = false;
    for (size_t i = 0; i < tags.size(); ++i) {
      if (here.starts_with(tags[i])) {
        before->append(text.substr(0, at));
        skip(at + tags[i].size());
        return i;
      }
      may_begin |= !closed_ && tags[i].starts_with(here);
    }
    if (may_begin) break;
  }
  const size_t certain = std::min({at, text.size(), room});
  before->append(text.substr(0, certain));
  skip(certain);
  return std::nullopt;
}

TextReader::Match TextReader::accept(std::string_view tag) {
  const std::string_view text = rest();
  if (text.starts_with(tag)) {
    skip(tag.size());
    return Match::kYes;
  }
  return !closed_ && tag.starts_with(text) ? Match::kMaybe : Match::kNo;
}

void TextReader::skip_space() {
  skip(std::min(rest().find_first_not_of(kDialogSpace), rest().size()));
}

void TextReader::start_record(std::string_view before) {
  recording_ = true;
  record_ = before;
}

std::string TextReader::take_record() {
  recording_ = false;
  return std::exchange(record_, {});
}

}  // namespace moe4
