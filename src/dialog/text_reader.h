// The text that has come and is not yet understood: reads up to tags that pieces may cut.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace moe4 {

inline constexpr std::string_view kDialogSpace = " \t\r\n";

class TextReader {
 public:
  enum class Match { kNo, kYes, kMaybe };

  void append(std::string_view text);
  /// Nothing more comes: what only may begin a tag is none from now on.
  void close() { closed_ = true; }
  bool closed() const { return closed_; }

  std::string_view rest() const { return std::string_view(buffer_).substr(at_); }
  bool empty() const { return at_ == buffer_.size(); }

  /// Appends to *before what precedes the first of `tags`, goes past the tag and returns its place
  /// in the list. Without one: appends all but a tail that may begin a tag. *before never grows
  /// beyond `most` bytes, and a tag is one only before them: where too long a name ends does not
  /// depend on the pieces it came in.
  std::optional<size_t> read_until(std::span<const std::string_view> tags, std::string* before,
                                   size_t most = std::string::npos);
  /// Goes past `tag` if the text goes on with it. kMaybe: so far.
  Match accept(std::string_view tag);
  void skip_space();
  void skip(size_t bytes);

  /// From now on all that is read is kept, after `before`.
  void start_record(std::string_view before);
  /// Keeps recording, without what was read so far.
  void clear_record() { record_.clear(); }
  /// What was recorded; ends the recording.
  std::string take_record();

 private:
  std::string buffer_;
  size_t at_ = 0;
  bool closed_ = false;
  bool recording_ = false;
  std::string record_;
};

}  // namespace moe4
