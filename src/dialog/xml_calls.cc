// Calls whose parameters stand between tags: qwen3_coder's, minimax_m2's and glm45's.
#include <algorithm>
#include <array>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "dialog/format.h"
#include "dialog/json_scanner.h"
#include "dialog/tool_schemas.h"

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

// What both do: names, values that end at a tag, arguments as one object.
class XmlFormat : public CallFormat {
 protected:
  XmlFormat(const nlohmann::json* tool_list, ToolSchemas::Unknown unknown)
      : schemas_(tool_list), unknown_(unknown) {}

  void reset() {
    tool_.clear();
    key_.clear();
    value_.clear();
    seen_.clear();
  }

  // Reads a name up to one of `ends` into *name; *end: which.
  Progress read_name(TextReader& reader, std::span<const std::string_view> ends, std::string* name,
                     size_t* end) {
    const auto found = reader.read_until(ends, name, kMaxNameBytes + 1);
    if (!found) return name->size() <= kMaxNameBytes ? Progress::kMore : Progress::kBad;
    *name = std::string(trimmed(*name));
    *end = *found;
    return is_name(*name) ? Progress::kDone : Progress::kBad;
  }

  // Reads key_'s value up to `close` into value_. Behind it one of `followers` must come after
  // white space, and is left unread; else it was text of the value.
  Progress read_value(TextReader& reader, std::string_view close,
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

  // Tells key_ and value_; false when the call has that parameter already.
  bool tell_parameter(TextReader& reader, DialogOutput& output) {
    if (!seen_.insert(key_).second) return false;
    tell(reader, output,
         (seen_.size() == 1 ? "{" : ", ") + json_quoted(key_) + ": " +
             schemas_.to_json(tool_, key_, value_, unknown_));
    key_.clear();
    value_.clear();
    return true;
  }

  void tell_end(TextReader& reader, DialogOutput& output) {
    tell(reader, output, seen_.empty() ? "{}" : "}");
  }

  std::string tool_, key_, value_;

 private:
  ToolSchemas schemas_;
  ToolSchemas::Unknown unknown_;
  std::set<std::string> seen_;
  bool closing_ = false;  // after the tag that may close a value
  std::string space_;     // ... and what came behind it
};

// How a call is written whose parameters have their names in their tags.
struct NamedTags {
  std::array<std::string_view, 3> outer;  // the frame, a call, the end of the frame
  std::string_view name_end;              // of calls and parameters
  std::string_view call_end, parameter, parameter_end;
  bool is_on_lines;  // a line break at either end of a value is none of it
};

constexpr NamedTags kQwen3Coder = {.outer = {"<tool_call>", "<function=", "</tool_call>"},
                                   .name_end = ">",
                                   .call_end = "</function>",
                                   .parameter = "<parameter=",
                                   .parameter_end = "</parameter>",
                                   .is_on_lines = true};
constexpr NamedTags kMiniMaxM2 = {
    .outer = {"<minimax:tool_call>", "<invoke name=\"", "</minimax:tool_call>"},
    .name_end = "\">",
    .call_end = "</invoke>",
    .parameter = "<parameter name=\"",
    .parameter_end = "</parameter>",
    .is_on_lines = false};

class NamedTagsFormat : public XmlFormat {
 public:
  NamedTagsFormat(const NamedTags& tags, const nlohmann::json* tool_list)
      : XmlFormat(tool_list, ToolSchemas::Unknown::kString), tags_(tags) {}

 protected:
  // The frame is sometimes left out by the models, and may hold several calls.
  std::span<const std::string_view> tags() const override {
    return std::span(tags_.outer).first(after_call_ ? 3 : 2);
  }

  bool open(size_t tag) override {
    after_call_ = false;
    reset();
    state_ = tag == 0 ? State::kFunction : State::kName;
    return tag != 2;
  }

  bool is_complete() const override { return false; }

  Progress read_call(TextReader& reader, DialogOutput& output) override {
    for (;;) {
      Progress progress = Progress::kDone;
      switch (state_) {
        case State::kFunction:
          progress = read_tag(reader, {tags_.outer[1]}, {State::kName});
          break;
        case State::kName:
          progress = read_name_to(reader, &tool_, State::kBody);
          if (progress == Progress::kDone) begin_call(reader, output, tool_);
          break;
        case State::kBody:
          progress =
              read_tag(reader, {tags_.parameter, tags_.call_end}, {State::kKey, State::kEnd});
          break;
        case State::kKey:
          progress = read_name_to(reader, &key_, State::kValue);
          break;
        case State::kValue:
          progress = read_parameter(reader, output);
          break;
        case State::kEnd:
          tell_end(reader, output);
          after_call_ = true;
          return Progress::kDone;
      }
      if (progress != Progress::kDone) return progress;
    }
  }

 private:
  enum class State { kFunction, kName, kBody, kKey, kValue, kEnd };

  Progress read_tag(TextReader& reader, std::initializer_list<std::string_view> tags,
                    std::initializer_list<State> then) {
    reader.skip_space();
    const auto* state = then.begin();
    bool may_come = false;
    for (const std::string_view tag : tags) {
      const TextReader::Match match = reader.accept(tag);
      if (match == TextReader::Match::kYes) {
        state_ = *state;
        return Progress::kDone;
      }
      may_come |= match == TextReader::Match::kMaybe;
      ++state;
    }
    return may_come ? Progress::kMore : Progress::kBad;
  }

  Progress read_name_to(TextReader& reader, std::string* name, State then) {
    size_t end = 0;
    const Progress progress = read_name(reader, std::span(&tags_.name_end, 1), name, &end);
    if (progress == Progress::kDone) state_ = then;
    return progress;
  }

  Progress read_parameter(TextReader& reader, DialogOutput& output) {
    const std::array<std::string_view, 2> followers = {tags_.parameter, tags_.call_end};
    const Progress progress = read_value(reader, tags_.parameter_end, followers);
    if (progress != Progress::kDone) return progress;
    if (tags_.is_on_lines) {
      if (value_.starts_with('\n')) value_.erase(0, 1);
      if (value_.ends_with('\n')) value_.pop_back();
    }
    state_ = State::kBody;
    return tell_parameter(reader, output) ? Progress::kDone : Progress::kBad;
  }

  const NamedTags& tags_;
  State state_ = State::kFunction;
  bool after_call_ = false;
};

class Glm45Format : public XmlFormat {
 public:
  explicit Glm45Format(const nlohmann::json* tool_list)
      : XmlFormat(tool_list, ToolSchemas::Unknown::kJsonIfItIs) {}

 protected:
  static constexpr std::array<std::string_view, 1> kTags = {"<tool_call>"};

  std::span<const std::string_view> tags() const override { return kTags; }

  bool open(size_t) override {
    reset();
    state_ = State::kName;
    return true;
  }

  bool is_complete() const override { return false; }

  Progress read_call(TextReader& reader, DialogOutput& output) override {
    for (;;) {
      Progress progress = Progress::kDone;
      switch (state_) {
        case State::kName:
          progress = read_tool_name(reader, output);
          break;
        case State::kKey:
          progress = read_key(reader);
          break;
        case State::kBeforeValue: {
          reader.skip_space();
          const TextReader::Match match = reader.accept("<arg_value>");
          if (match == TextReader::Match::kNo) return Progress::kBad;
          if (match == TextReader::Match::kMaybe) return Progress::kMore;
          state_ = State::kValue;
          break;
        }
        case State::kValue:
          progress = read_value(reader, "</arg_value>", kSteps);
          if (progress != Progress::kDone) return progress;
          if (!tell_parameter(reader, output)) return Progress::kBad;
          state_ = State::kStep;
          break;
        case State::kStep:  // one of kSteps stands there
          reader.skip_space();
          state_ = reader.accept(kSteps[0]) == TextReader::Match::kYes ? State::kKey : State::kEnd;
          if (state_ == State::kEnd) reader.accept(kSteps[1]);
          break;
        case State::kEnd:
          tell_end(reader, output);
          return Progress::kDone;
      }
      if (progress != Progress::kDone) return progress;
    }
  }

 private:
  enum class State { kName, kKey, kBeforeValue, kValue, kStep, kEnd };
  static constexpr std::array<std::string_view, 2> kSteps = {"<arg_key>", "</tool_call>"};

  Progress read_tool_name(TextReader& reader, DialogOutput& output) {
    size_t end = 0;
    const Progress progress = read_name(reader, kSteps, &tool_, &end);
    if (progress != Progress::kDone) return progress;
    begin_call(reader, output, tool_);
    state_ = end == 0 ? State::kKey : State::kEnd;
    return progress;
  }

  Progress read_key(TextReader& reader) {
    static constexpr std::array<std::string_view, 1> kEnds = {"</arg_key>"};
    size_t end = 0;
    const Progress progress = read_name(reader, kEnds, &key_, &end);
    if (progress == Progress::kDone) state_ = State::kBeforeValue;
    return progress;
  }

  State state_ = State::kName;
};

}  // namespace

std::unique_ptr<DialogFormat> make_qwen3_coder_format(const nlohmann::json* tool_list) {
  return std::make_unique<NamedTagsFormat>(kQwen3Coder, tool_list);
}

std::unique_ptr<DialogFormat> make_minimax_m2_format(const nlohmann::json* tool_list) {
  return std::make_unique<NamedTagsFormat>(kMiniMaxM2, tool_list);
}

std::unique_ptr<DialogFormat> make_glm45_format(const nlohmann::json* tool_list) {
  return std::make_unique<Glm45Format>(tool_list);
}

}  // namespace moe4
