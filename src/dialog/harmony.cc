// gpt-oss: an answer is messages, each with a header that names its channel and its recipient.
#include <algorithm>
#include <array>
#include <utility>

#include "dialog/arguments_reader.h"

namespace moe4 {
namespace {

constexpr size_t kMaxHeaderBytes = 1024;
constexpr std::string_view kStart = "<|start|>";
constexpr std::string_view kChannel = "<|channel|>";
constexpr std::array<std::string_view, 1> kMessage = {"<|message|>"};
constexpr std::array<std::string_view, 4> kEnds = {kStart, "<|end|>", "<|return|>", "<|call|>"};
// How a header can begin; the first one has its <|start|>assistant in the prompt.
constexpr std::array<std::string_view, 6> kHeaders = {kStart,          kChannel, kMessage.front(),
                                                      "<|constrain|>", "to=",    "assistant"};

struct Header {
  std::string_view role, channel, recipient;
};

std::string_view word(std::string_view text) {
  return text.substr(0, std::min(text.find_first_of(kDialogSpace), text.find('<')));
}

// <|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>, without the
// last tag and in either order.
Header parse_header(std::string_view text) {
  Header header;
  text.remove_prefix(std::min(text.find_first_not_of(kDialogSpace), text.size()));
  if (text.starts_with(kStart)) {
    text.remove_prefix(kStart.size());
    header.role = word(text);
  }
  if (const size_t at = text.find(kChannel); at != std::string_view::npos)
    header.channel = word(text.substr(at + kChannel.size()));
  for (size_t at = text.find("to="); at != std::string_view::npos; at = text.find("to=", at + 1)) {
    if (at != 0 && kDialogSpace.find(text[at - 1]) == std::string_view::npos && text[at - 1] != '>')
      continue;
    header.recipient = word(text.substr(at + 3));
    break;
  }
  return header;
}

class HarmonyFormat : public DialogFormat {
 public:
  HarmonyFormat(bool with_calls, bool with_reasoning)
      : with_calls_(with_calls), with_reasoning_(with_reasoning) {}

  void read(TextReader& reader, DialogOutput& output) override {
    bool goes_on = true;
    while (goes_on) {
      switch (state_) {
        case State::kBetween:
          goes_on = read_between(reader);
          break;
        case State::kHeader:
          goes_on = read_header(reader, output);
          break;
        case State::kBody:
          goes_on = read_body(reader, output);
          break;
        case State::kArguments:
          goes_on = read_arguments(reader, output);
          break;
        case State::kCallEnd:
          goes_on = read_call_end(reader, output);
          break;
      }
    }
  }

 private:
  enum class State { kBetween, kHeader, kBody, kArguments, kCallEnd };

  // A header, or text that has none.
  bool read_between(TextReader& reader) {
    const std::string_view text = reader.rest();
    space_ = std::min(text.find_first_not_of(kDialogSpace, space_), text.size());
    const std::string_view next = text.substr(space_);
    bool may_be = false;
    for (const std::string_view begin : kHeaders) {
      if (next.starts_with(begin)) {
        state_ = State::kHeader;
        header_.clear();
        return true;
      }
      may_be |= begin.starts_with(next);
    }
    if (may_be && !reader.closed()) return false;
    if (next.empty()) return false;
    begin_body(Delta::Kind::kContent);
    return true;
  }

  bool read_header(TextReader& reader, DialogOutput& output) {
    const bool found = reader.read_until(kMessage, &header_, kMaxHeaderBytes + 1).has_value();
    if (!found && header_.size() <= kMaxHeaderBytes) {
      // A header that is cut off frames nothing; without any tag it was text.
      if (reader.closed() && header_.find("<|") == std::string::npos) told(output, header_);
      return false;
    }
    const Header header = parse_header(header_);
    const std::string raw = header_ + std::string(found ? kMessage.front() : "");
    const bool is_answer = header.role.empty() || header.role == "assistant";
    if (with_calls_ && found && is_answer && header.recipient.starts_with("functions.") &&
        header.recipient.size() > 10) {
      tool_ = header.recipient.substr(10);
      is_begun_ = false;
      arguments_ = {};
      reader.start_record(raw);
      state_ = State::kArguments;
      return true;
    }
    const bool is_reasoning =
        with_reasoning_ && header.channel == "analysis" && header.recipient.empty();
    begin_body(is_reasoning ? Delta::Kind::kReasoning : Delta::Kind::kContent);
    // What is neither the user's nor ours to run is shown as it is.
    if (!found || !is_answer || !header.recipient.empty()) told(output, raw);
    return true;
  }

  void begin_body(Delta::Kind kind) {
    state_ = State::kBody;
    kind_ = kind;
    is_first_piece_ = true;
  }

  // Messages of one kind are lines of one text.
  void told(DialogOutput& output, std::string_view text) {
    if (text.empty()) return;
    bool& before = kind_ == Delta::Kind::kReasoning ? has_reasoning_ : has_content_;
    const std::string_view line_break = is_first_piece_ && before ? "\n" : "";
    is_first_piece_ = false;
    before = true;
    if (kind_ == Delta::Kind::kReasoning) {
      output.reasoning(line_break);
      output.reasoning(text);
    } else {
      output.content(line_break);
      output.content(text);
    }
  }

  bool read_body(TextReader& reader, DialogOutput& output) {
    std::string text;
    const std::optional<size_t> end = reader.read_until(kEnds, &text);
    told(output, text);
    if (!end) return false;
    end_message(*end);
    return true;
  }

  void end_message(size_t end) {
    space_ = 0;
    state_ = end == 0 ? State::kHeader : State::kBetween;
    header_ = end == 0 ? kStart : "";
  }

  bool read_arguments(TextReader& reader, DialogOutput& output) {
    std::string piece;
    Progress progress = arguments_.read(reader, &piece);
    if (!piece.empty()) {
      if (!is_begun_) output.begin_call(tool_);
      is_begun_ = true;
      output.arguments(piece);
      if (output.streams_calls()) reader.clear_record();
    }
    if (progress == Progress::kMore && reader.closed()) progress = Progress::kBad;
    if (progress == Progress::kMore) return false;
    if (progress == Progress::kDone) {
      reader.take_record();
      output.end_call();
      state_ = State::kCallEnd;
      return true;
    }
    output.abandon_call();
    begin_body(Delta::Kind::kContent);
    told(output, reader.take_record());
    return true;
  }

  // The tag after the arguments; anything else is content.
  bool read_call_end(TextReader& reader, DialogOutput&) {
    reader.skip_space();
    bool may_be = false;
    for (size_t i = 0; i < kEnds.size(); ++i) {
      const TextReader::Match match = reader.accept(kEnds[i]);
      if (match == TextReader::Match::kYes) {
        end_message(i);
        return true;
      }
      may_be |= match == TextReader::Match::kMaybe;
    }
    if (may_be || reader.empty()) return false;
    begin_body(Delta::Kind::kContent);
    return true;
  }

  bool with_calls_, with_reasoning_;
  State state_ = State::kBetween;
  size_t space_ = 0;  // white space that rest() is known to begin with
  std::string header_;
  Delta::Kind kind_ = Delta::Kind::kContent;
  bool is_first_piece_ = true;
  bool has_content_ = false, has_reasoning_ = false;
  std::string tool_;
  bool is_begun_ = false;
  ArgumentsReader arguments_;
};

}  // namespace

std::unique_ptr<DialogFormat> make_harmony_format(bool with_calls, bool with_reasoning) {
  return std::make_unique<HarmonyFormat>(with_calls, with_reasoning);
}

}  // namespace moe4
