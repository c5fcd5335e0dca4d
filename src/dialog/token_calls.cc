// Calls between tokens of their own, arguments in JSON: DeepSeek's and Kimi's.
#include <array>
#include <utility>

#include "dialog/arguments_reader.h"

namespace moe4 {
namespace {

constexpr size_t kMaxHeadBytes = 512;

// How a call is written between its first and its last token.
struct TokenSyntax {
  std::array<std::string_view, 3> tags;  // begin of a section, begin of a call, end of the section
  std::string_view head_end;             // what ends the name
  std::string_view call_end;
};

constexpr TokenSyntax kDeepSeek = {
    .tags = {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁calls▁end｜>"},
    .head_end = "<｜tool▁sep｜>",
    .call_end = "<｜tool▁call▁end｜>"};
constexpr TokenSyntax kKimi = {
    .tags = {"<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_calls_section_end|>"},
    .head_end = "<|tool_call_argument_begin|>",
    .call_end = "<|tool_call_end|>"};

class TokenFormat : public CallFormat {
 public:
  explicit TokenFormat(const TokenSyntax& syntax) : syntax_(syntax) {}

 protected:
  std::span<const std::string_view> tags() const override {
    return std::span(syntax_.tags).first(in_section_ ? 3 : 2);
  }

  bool open(size_t tag) override {
    in_section_ = false;
    state_ = tag == 0 ? State::kSection : State::kHead;
    head_.clear();
    fence_.clear();
    arguments_ = {};
    return tag != 2;
  }

  bool is_complete() const override { return state_ == State::kEnd; }

  Progress read_call(TextReader& reader, DialogOutput& output) override {
    for (;;) {
      Progress progress = Progress::kDone;
      switch (state_) {
        case State::kSection:
          progress = accept(reader, syntax_.tags[1], State::kHead);
          break;
        case State::kHead:
          progress = read_head(reader, output);
          break;
        case State::kFence:
          progress = read_fence(reader, output);
          break;
        case State::kArguments:
          progress = read_arguments(reader, output);
          break;
        case State::kFenceEnd:
          progress = accept(reader, "```", State::kEnd);
          break;
        case State::kEnd:
          progress = accept(reader, syntax_.call_end, State::kEnd);
          if (progress == Progress::kMore) return progress;
          // The call is complete; what may come instead of its end is content.
          in_section_ = true;
          return Progress::kDone;
      }
      if (progress != Progress::kDone) return progress;
    }
  }

  struct Head {
    std::string name, id;
    bool is_fenced = false;  // the name follows, and a block of JSON
  };
  // From what stands before head_end; an empty name unless fenced is no call.
  virtual Head understand(std::string_view head) const = 0;

 private:
  enum class State { kSection, kHead, kFence, kArguments, kFenceEnd, kEnd };

  Progress accept(TextReader& reader, std::string_view tag, State then) {
    reader.skip_space();
    switch (reader.accept(tag)) {
      case TextReader::Match::kYes:
        state_ = then;
        return Progress::kDone;
      case TextReader::Match::kMaybe:
        return Progress::kMore;
      default:
        return Progress::kBad;
    }
  }

  Progress read_head(TextReader& reader, DialogOutput& output) {
    const bool found =
        reader.read_until(std::span(&syntax_.head_end, 1), &head_, kMaxHeadBytes + 1).has_value();
    if (head_.size() > kMaxHeadBytes) return Progress::kBad;
    if (!found) return Progress::kMore;
    Head head = understand(head_);
    is_fenced_ = head.is_fenced;
    state_ = is_fenced_ ? State::kFence : State::kArguments;
    if (is_fenced_) return Progress::kDone;
    if (head.name.empty()) return Progress::kBad;
    begin_call(reader, output, std::move(head.name), std::move(head.id));
    return Progress::kDone;
  }

  Progress read_fence(TextReader& reader, DialogOutput& output) {
    static constexpr std::array<std::string_view, 1> kFence = {"```json\n"};
    const bool found = reader.read_until(kFence, &fence_, kMaxHeadBytes + 1).has_value();
    if (fence_.size() > kMaxHeadBytes) return Progress::kBad;
    if (!found) return Progress::kMore;
    const size_t end = fence_.find_last_not_of(kDialogSpace) + 1;
    if (end == 0 || fence_.find('\n') < end) return Progress::kBad;
    begin_call(reader, output, fence_.substr(0, end));
    state_ = State::kArguments;
    return Progress::kDone;
  }

  Progress read_arguments(TextReader& reader, DialogOutput& output) {
    std::string piece;
    const Progress progress = arguments_.read(reader, &piece);
    tell(reader, output, piece);
    if (progress == Progress::kDone) state_ = is_fenced_ ? State::kFenceEnd : State::kEnd;
    return progress;
  }

  const TokenSyntax& syntax_;
  State state_ = State::kSection;
  bool in_section_ = false;
  bool is_fenced_ = false;
  std::string head_, fence_;
  ArgumentsReader arguments_;
};

// function<｜tool▁sep｜>name, and ```json around the arguments.
class DeepSeekV3Format : public TokenFormat {
 public:
  DeepSeekV3Format() : TokenFormat(kDeepSeek) {}

 protected:
  Head understand(std::string_view head) const override {
    return {.is_fenced = head == "function"};  // the one type of tools
  }
};

class DeepSeekV31Format : public TokenFormat {
 public:
  DeepSeekV31Format() : TokenFormat(kDeepSeek) {}

 protected:
  Head understand(std::string_view head) const override { return {.name = std::string(head)}; }
};

// functions.name:0, which is the call's id too.
class KimiK2Format : public TokenFormat {
 public:
  KimiK2Format() : TokenFormat(kKimi) {}

 protected:
  Head understand(std::string_view head) const override {
    const size_t begin = head.find_first_not_of(kDialogSpace);
    if (begin == std::string_view::npos) return {};
    const std::string_view id = head.substr(begin, head.find_last_not_of(kDialogSpace) + 1 - begin);
    std::string_view name = id.substr(0, id.rfind(':'));
    if (name.starts_with("functions.")) name.remove_prefix(10);
    return {.name = std::string(name), .id = std::string(id)};
  }
};

}  // namespace

std::unique_ptr<DialogFormat> make_deepseek_v3_format() {
  return std::make_unique<DeepSeekV3Format>();
}

std::unique_ptr<DialogFormat> make_deepseek_v31_format() {
  return std::make_unique<DeepSeekV31Format>();
}

std::unique_ptr<DialogFormat> make_kimi_k2_format() { return std::make_unique<KimiK2Format>(); }

}  // namespace moe4
