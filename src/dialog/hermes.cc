// <tool_call>{"name": "f", "arguments": {..}}</tool_call>, keys in any order.
#include <array>
#include <nlohmann/json.hpp>

#include "dialog/arguments_reader.h"

namespace moe4 {
namespace {

constexpr std::array<std::string_view, 1> kOpen = {"<tool_call>"};
constexpr std::string_view kClose = "</tool_call>";

class HermesFormat : public CallFormat {
 protected:
  std::span<const std::string_view> tags() const override { return kOpen; }

  bool open(size_t) override {
    state_ = State::kBegin;
    name_.clear();
    arguments_.clear();
    has_arguments_ = is_told_ = false;
    return true;
  }

  // The object is whole; only its closing tag is missing.
  bool is_complete() const override { return state_ == State::kClose; }

  Progress read_call(TextReader& reader, DialogOutput& output) override {
    for (;;) {
      Progress progress = Progress::kDone;
      switch (state_) {
        case State::kBegin:
          progress = read_byte(reader, "{", State::kKey);
          key_.clear();
          scanner_ = {};
          break;
        case State::kKey:
          progress = read_key(reader);
          break;
        case State::kColon:
          progress = read_byte(reader, ":", value_state());
          break;
        case State::kName:
          progress = read_name(reader, output);
          break;
        case State::kArguments:
          progress = read_arguments(reader, output);
          break;
        case State::kOther:
          progress = read_json(reader, scanner_, &value_);
          if (progress == Progress::kDone) state_ = State::kNext;
          break;
        case State::kNext:
          progress = read_next(reader, output);
          break;
        case State::kClose:
          reader.skip_space();
          // What is no closing tag is content after the call.
          return reader.accept(kClose) == TextReader::Match::kMaybe ? Progress::kMore
                                                                    : Progress::kDone;
      }
      if (progress != Progress::kDone) return progress;
    }
  }

 private:
  enum class State { kBegin, kKey, kColon, kName, kArguments, kOther, kNext, kClose };

  // One of `bytes` after white space.
  Progress read_byte(TextReader& reader, std::string_view bytes, State then) {
    reader.skip_space();
    if (reader.empty()) return Progress::kMore;
    if (bytes.find(reader.rest().front()) == std::string_view::npos) return Progress::kBad;
    reader.skip(1);
    state_ = then;
    return Progress::kDone;
  }

  Progress read_key(TextReader& reader) {
    if (key_.empty()) {
      reader.skip_space();
      if (reader.empty()) return Progress::kMore;
      if (reader.rest().front() != '"') return Progress::kBad;
    }
    const Progress progress = read_json(reader, scanner_, &key_);
    if (progress == Progress::kDone) {
      state_ = State::kColon;
      scanner_ = {};
      value_.clear();
    }
    return progress;
  }

  State value_state() {
    if (key_ == "\"name\"") return State::kName;
    if (key_ == "\"arguments\"" || key_ == "\"parameters\"") {
      arguments_reader_ = {};
      return State::kArguments;
    }
    return State::kOther;
  }

  Progress read_name(TextReader& reader, DialogOutput& output) {
    if (!name_.empty()) return Progress::kBad;
    const Progress progress = read_json(reader, scanner_, &value_);
    if (progress != Progress::kDone) return progress;
    if (value_.front() != '"') return Progress::kBad;
    name_ = nlohmann::json::parse(value_).get<std::string>();
    if (name_.empty()) return Progress::kBad;
    state_ = State::kNext;
    // Arguments that came before the name are whole and known to be right.
    if (has_arguments_) tell_arguments(reader, output);
    return Progress::kDone;
  }

  Progress read_arguments(TextReader& reader, DialogOutput& output) {
    if (has_arguments_) return Progress::kBad;
    const Progress progress = arguments_reader_.read(reader, &arguments_);
    if (!name_.empty()) tell_arguments(reader, output);
    if (progress != Progress::kDone) return progress;
    has_arguments_ = true;
    state_ = State::kNext;
    return Progress::kDone;
  }

  void tell_arguments(TextReader& reader, DialogOutput& output) {
    if (arguments_.empty()) return;
    if (!is_told_) begin_call(reader, output, name_);
    is_told_ = true;
    tell(reader, output, arguments_);
    arguments_.clear();
  }

  Progress read_next(TextReader& reader, DialogOutput& output) {
    reader.skip_space();
    if (reader.empty()) return Progress::kMore;
    const bool end = reader.rest().front() == '}';
    if (end && name_.empty()) return Progress::kBad;
    const Progress progress = read_byte(reader, ",}", end ? State::kClose : State::kKey);
    if (progress != Progress::kDone) return progress;
    if (end && !has_arguments_) {
      arguments_ = "{}";
      tell_arguments(reader, output);
    }
    key_.clear();
    scanner_ = {};
    return progress;
  }

  State state_ = State::kBegin;
  JsonScanner scanner_;
  ArgumentsReader arguments_reader_;
  std::string key_, value_, name_;
  std::string arguments_;  // not told yet
  bool has_arguments_ = false;
  bool is_told_ = false;
};

}  // namespace

std::unique_ptr<DialogFormat> make_hermes_format() { return std::make_unique<HermesFormat>(); }

}  // namespace moe4
