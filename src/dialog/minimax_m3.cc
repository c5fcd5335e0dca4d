// MiniMax-M3's calls: parameters named by their tags, objects and lists as tags within tags, and a
// token of its own before every tag. After chat_template.jinja of MiniMaxAI/MiniMax-M3.
#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "dialog/xml_format.h"

namespace moe4 {
namespace {

// All tags begin with that token: nothing else in a value can look like one.
constexpr std::string_view kTag = "]<]minimax[>[<";
constexpr std::string_view kInvoke = "]<]minimax[>[<invoke name=\"";
constexpr std::array<std::string_view, 3> kOuter = {"]<]minimax[>[<tool_call>", kInvoke,
                                                    "]<]minimax[>[</tool_call>"};
constexpr size_t kMaxDepth = 64;

class MiniMaxM3Format : public XmlFormat {
 public:
  explicit MiniMaxM3Format(const nlohmann::json* tool_list) : XmlFormat(tool_list) {}

 protected:
  std::span<const std::string_view> tags() const override {
    return std::span(kOuter).first(after_call_ ? 3 : 2);
  }

  bool open(size_t tag) override {
    after_call_ = false;
    reset();
    tag_.clear();
    open_.clear();
    state_ = tag == 0 ? State::kFunction : State::kName;
    return tag != 2;
  }

  bool is_complete() const override { return false; }

  Progress read_call(TextReader& reader, DialogOutput& output) override {
    for (;;) {
      Progress progress = Progress::kDone;
      switch (state_) {
        case State::kFunction:
          progress = read_tag(reader, kInvoke, State::kName);
          break;
        case State::kName:
          progress = read_name_to(reader, "\">", &tool_, State::kBody);
          if (progress == Progress::kDone) begin_call(reader, output, tool_);
          break;
        case State::kBody:
          progress = read_tag(reader, kTag, State::kTagName);
          break;
        case State::kText:
          if (!reader.read_until(std::span(&kTag, 1), &open_.back().text)) return Progress::kMore;
          state_ = State::kTagName;
          break;
        case State::kTagName:
          progress = read_name_to(reader, ">", &tag_, State::kText);
          if (progress != Progress::kDone) break;
          if (open_.empty() && tag_ == "/invoke") {
            tell_end(reader, output);
            after_call_ = true;
            return Progress::kDone;
          }
          progress = tag_.starts_with('/') ? close_value(reader, output) : open_value();
          tag_.clear();
          break;
      }
      if (progress != Progress::kDone) return progress;
    }
  }

 private:
  enum class State {
    kFunction,  // within the frame, before a call
    kName,      // of the function
    kBody,      // between parameters
    kText,      // within a value
    kTagName    // of a tag whose begin was read
  };

  Progress read_tag(TextReader& reader, std::string_view tag, State then) {
    reader.skip_space();
    const TextReader::Match match = reader.accept(tag);
    if (match == TextReader::Match::kNo) return Progress::kBad;
    if (match == TextReader::Match::kMaybe) return Progress::kMore;
    state_ = then;
    return Progress::kDone;
  }

  Progress read_name_to(TextReader& reader, std::string_view end, std::string* name, State then) {
    size_t which = 0;
    const Progress progress = read_name(reader, std::span(&end, 1), name, &which);
    if (progress == Progress::kDone) state_ = then;
    return progress;
  }

  Progress open_value() {
    if (open_.size() == kMaxDepth) return Progress::kBad;
    open_.push_back({.name = std::exchange(tag_, {})});
    return Progress::kDone;
  }

  Progress close_value(TextReader& reader, DialogOutput& output) {
    if (open_.empty() || std::string_view(tag_).substr(1) != open_.back().name)
      return Progress::kBad;
    TaggedValue value = std::move(open_.back());
    open_.pop_back();
    if (!value.children.empty() && value.text.find_first_not_of(kDialogSpace) != std::string::npos)
      return Progress::kBad;
    if (!open_.empty()) {
      open_.back().children.push_back(std::move(value));
      return Progress::kDone;
    }
    state_ = State::kBody;
    key_ = value.name;
    return tell_parameter(reader, output, schemas_.to_json(tool_, value)) ? Progress::kDone
                                                                          : Progress::kBad;
  }

  State state_ = State::kFunction;
  std::string tag_;                // its name, with the slash of one that closes
  std::vector<TaggedValue> open_;  // from the parameter inwards
  bool after_call_ = false;
};

}  // namespace

std::unique_ptr<DialogFormat> make_minimax_m3_format(const nlohmann::json* tool_list) {
  return std::make_unique<MiniMaxM3Format>(tool_list);
}

}  // namespace moe4
