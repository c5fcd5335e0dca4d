// Calls whose parameters stand between tags: qwen3_coder's, minimax_m2's, DeepSeek's DSML and
// glm45's.
#include <array>
#include <initializer_list>
#include <optional>
#include <utility>

#include "dialog/json_scanner.h"
#include "dialog/xml_format.h"

namespace moe4 {
namespace {

// How a call is written whose parameters have their names in their tags.
struct NamedTags {
  std::array<std::string_view, 3> outer;  // the frame, a call, the end of the frame
  std::string_view name_end;              // of calls, and of parameters unless has_types
  std::string_view call_end, parameter, parameter_end;
  bool is_on_lines = false;  // a line break at either end of a value is none of it
  bool has_types = false;    // names of parameters end with one of kTypedNameEnds
};

// DSML says of each value whether it is a string or JSON.
constexpr std::array<std::string_view, 2> kTypedNameEnds = {"\" string=\"true\">",
                                                            "\" string=\"false\">"};

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
    .parameter_end = "</parameter>"};

// After encoding/encoding_dsv32.py of deepseek-ai/DeepSeek-V3.2 and encoding/encoding_dsv4.py of
// deepseek-ai/DeepSeek-V4-Pro, which write and read it. Only the frame has another name in V4.
constexpr NamedTags dsml(std::string_view frame, std::string_view frame_end) {
  return {.outer = {frame, "<｜DSML｜invoke name=\"", frame_end},
          .name_end = "\">",
          .call_end = "</｜DSML｜invoke>",
          .parameter = "<｜DSML｜parameter name=\"",
          .parameter_end = "</｜DSML｜parameter>",
          .has_types = true};
}
constexpr NamedTags kDeepSeekV32 = dsml("<｜DSML｜function_calls>", "</｜DSML｜function_calls>");
constexpr NamedTags kDeepSeekV4 = dsml("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>");

class NamedTagsFormat : public XmlFormat {
 public:
  NamedTagsFormat(const NamedTags& tags, const nlohmann::json* tool_list)
      : XmlFormat(tool_list), tags_(tags) {}

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
          progress = read_key(reader);
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

  Progress read_key(TextReader& reader) {
    if (!tags_.has_types) return read_name_to(reader, &key_, State::kValue);
    size_t end = 0;
    const Progress progress = read_name(reader, kTypedNameEnds, &key_, &end);
    is_string_ = end == 0;
    if (progress == Progress::kDone) state_ = State::kValue;
    return progress;
  }

  // What the call says of the type goes before the schema.
  std::string value_json() const {
    if (tags_.has_types) {
      if (is_string_) return json_quoted(value_);
      if (const auto value = as_json(value_, "{[\"-0123456789tfn")) return *value;
    }
    return schemas_.to_json(tool_, key_, value_, ToolSchemas::Unknown::kString);
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
    return tell_parameter(reader, output, value_json()) ? Progress::kDone : Progress::kBad;
  }

  const NamedTags& tags_;
  State state_ = State::kFunction;
  bool is_string_ = false;  // key_'s value, where tags_.has_types
  bool after_call_ = false;
};

class Glm45Format : public XmlFormat {
 public:
  explicit Glm45Format(const nlohmann::json* tool_list) : XmlFormat(tool_list) {}

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
          if (!tell_parameter(
                  reader, output,
                  schemas_.to_json(tool_, key_, value_, ToolSchemas::Unknown::kJsonIfItIs)))
            return Progress::kBad;
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

std::unique_ptr<DialogFormat> make_deepseek_v32_format(const nlohmann::json* tool_list) {
  return std::make_unique<NamedTagsFormat>(kDeepSeekV32, tool_list);
}

std::unique_ptr<DialogFormat> make_deepseek_v4_format(const nlohmann::json* tool_list) {
  return std::make_unique<NamedTagsFormat>(kDeepSeekV4, tool_list);
}

std::unique_ptr<DialogFormat> make_glm45_format(const nlohmann::json* tool_list) {
  return std::make_unique<Glm45Format>(tool_list);
}

}  // namespace moe4
