// <think>reasoning</think> before the rest of an answer.
#include <algorithm>
#include <array>
#include <utility>

#include "dialog/format.h"

namespace moe4 {
namespace {

constexpr std::string_view kOpen = "<think>";
constexpr std::array<std::string_view, 1> kClose = {"</think>"};

class ThinkFormat : public DialogFormat {
 public:
  ThinkFormat(bool now, std::string_view prompt, std::unique_ptr<DialogFormat> rest)
      : now_(now), rest_(std::move(rest)) {
    const Thinking thinking = thinking_after(prompt);
    if (thinking == Thinking::kBegun) now_ = true;
    if (thinking == Thinking::kOver) state_ = State::kRest;
  }

  void read(TextReader& reader, DialogOutput& output) override {
    if (state_ == State::kStart) read_start(reader);
    if (state_ == State::kReasoning) read_reasoning(reader, output);
    if (state_ == State::kAfter) {
      reader.skip_space();
      if (!reader.empty()) state_ = State::kRest;
    }
    if (state_ == State::kRest) rest_->read(reader, output);
  }

 private:
  enum class State { kStart, kReasoning, kAfter, kRest };

  // The first word decides. What is not the tag stays unread.
  void read_start(TextReader& reader) {
    const std::string_view text = reader.rest();
    space_ = std::min(text.find_first_not_of(kDialogSpace, space_), text.size());
    const std::string_view word = text.substr(space_);
    if (word.starts_with(kOpen)) {
      reader.skip(space_ + kOpen.size());
      state_ = State::kReasoning;
    } else if (reader.closed() || !kOpen.starts_with(word)) {
      state_ = now_ ? State::kReasoning : State::kRest;
    }
  }

  void read_reasoning(TextReader& reader, DialogOutput& output) {
    std::string text;
    const bool ended = reader.read_until(kClose, &text).has_value();
    if (!is_told_) text.erase(0, std::min(text.find_first_not_of(kDialogSpace), text.size()));
    const size_t words_end = text.find_last_not_of(kDialogSpace) + 1;
    if (words_end > 0) {
      output.reasoning(held_);
      output.reasoning(std::string_view(text).substr(0, words_end));
      held_.clear();
      is_told_ = true;
    }
    held_.append(text, words_end);
    if (ended) {
      state_ = State::kAfter;
    } else if (reader.closed()) {
      output.reasoning(held_);
    }
  }

  bool now_;
  std::unique_ptr<DialogFormat> rest_;
  State state_ = State::kStart;
  size_t space_ = 0;      // bytes of white space that the answer begins with, as far as is known
  bool is_told_ = false;  // some reasoning has come
  std::string held_;      // white space that may stand before the closing tag
};

}  // namespace

Thinking thinking_after(std::string_view prompt) {
  prompt = prompt.substr(0, prompt.find_last_not_of(kDialogSpace) + 1);
  if (prompt.ends_with(kOpen)) return Thinking::kBegun;
  return prompt.ends_with(kClose.front()) ? Thinking::kOver : Thinking::kUnknown;
}

std::unique_ptr<DialogFormat> make_think_format(bool now, std::string_view prompt,
                                                std::unique_ptr<DialogFormat> rest) {
  return std::make_unique<ThinkFormat>(now, prompt, std::move(rest));
}

}  // namespace moe4
