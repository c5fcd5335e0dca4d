// Reasoning between tags before the rest of an answer.
#include <algorithm>
#include <utility>

#include "dialog/format.h"

namespace moe4 {
namespace {

class ThinkFormat : public DialogFormat {
 public:
  ThinkFormat(ReasoningFormat format, std::string_view prompt, std::unique_ptr<DialogFormat> rest)
      : tags_(think_tags(format)),
        now_(format == ReasoningFormat::kThinkNow),
        rest_(std::move(rest)) {
    const Thinking thinking = thinking_after(prompt, tags_);
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
    if (word.starts_with(tags_.open)) {
      reader.skip(space_ + tags_.open.size());
      state_ = State::kReasoning;
    } else if (tags_.is_closed_alone && word.starts_with(tags_.close)) {
      reader.skip(space_ + tags_.close.size());
      state_ = State::kAfter;
    } else if (reader.closed() || !may_be_tag(word)) {
      state_ = now_ ? State::kReasoning : State::kRest;
    }
  }

  bool may_be_tag(std::string_view word) const {
    return tags_.open.starts_with(word) || (tags_.is_closed_alone && tags_.close.starts_with(word));
  }

  void read_reasoning(TextReader& reader, DialogOutput& output) {
    std::string text;
    const bool ended = reader.read_until(std::span(&tags_.close, 1), &text).has_value();
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

  ThinkTags tags_;
  bool now_;
  std::unique_ptr<DialogFormat> rest_;
  State state_ = State::kStart;
  size_t space_ = 0;      // bytes of white space that the answer begins with, as far as is known
  bool is_told_ = false;  // some reasoning has come
  std::string held_;      // white space that may stand before the closing tag
};

}  // namespace

ThinkTags think_tags(ReasoningFormat format) {
  if (format == ReasoningFormat::kMiniMaxM3)
    return {.open = "<mm:think>", .close = "</mm:think>", .is_closed_alone = true};
  return {.open = "<think>", .close = "</think>"};
}

Thinking thinking_after(std::string_view prompt, const ThinkTags& tags) {
  prompt = prompt.substr(0, prompt.find_last_not_of(kDialogSpace) + 1);
  if (prompt.ends_with(tags.open)) return Thinking::kBegun;
  return prompt.ends_with(tags.close) ? Thinking::kOver : Thinking::kUnknown;
}

std::unique_ptr<DialogFormat> make_think_format(ReasoningFormat format, std::string_view prompt,
                                                std::unique_ptr<DialogFormat> rest) {
  return std::make_unique<ThinkFormat>(format, prompt, std::move(rest));
}

}  // namespace moe4
