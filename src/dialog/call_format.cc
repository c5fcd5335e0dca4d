// Content between calls, and what becomes of the text of a call that is none.
#include <algorithm>
#include <utility>

#include "dialog/format.h"

namespace moe4 {
namespace {

class PlainFormat : public DialogFormat {
 public:
  void read(TextReader& reader, DialogOutput& output) override {
    output.content(reader.rest());
    reader.skip(reader.rest().size());
  }
};

}  // namespace

std::unique_ptr<DialogFormat> make_plain_format() { return std::make_unique<PlainFormat>(); }

void CallFormat::begin_call(TextReader& reader, DialogOutput& output, std::string name,
                            std::string id) {
  output.begin_call(std::move(name), std::move(id));
  if (output.streams_calls()) reader.clear_record();
}

void CallFormat::tell(TextReader& reader, DialogOutput& output, std::string_view arguments) {
  if (arguments.empty()) return;
  output.arguments(arguments);
  if (output.streams_calls()) reader.clear_record();
}

void CallFormat::read(TextReader& reader, DialogOutput& output) {
  for (;;) {
    if (!in_call_) read_content(reader, output);
    if (!in_call_) return;
    Progress progress = read_call(reader, output);
    if (progress == Progress::kMore) {
      if (!reader.closed()) return;
      progress = is_complete() ? Progress::kDone : Progress::kBad;
    }
    end_call(reader, output, progress == Progress::kDone);
  }
}

void CallFormat::read_content(TextReader& reader, DialogOutput& output) {
  for (bool searching = true; searching && !in_call_;) {
    std::string text;
    const std::optional<size_t> tag = reader.read_until(tags(), &text);
    searching = tag.has_value();
    const size_t words_end = text.find_last_not_of(kDialogSpace) + 1;  // 0: only white space
    if (words_end > 0) {
      output.content(space_);
      output.content(std::string_view(text).substr(0, words_end));
      space_.clear();
      after_tag_ = false;
    }
    space_.append(text, words_end);
    if (!tag) continue;
    const std::string_view name = tags()[*tag];
    in_call_ = open(*tag);
    if (in_call_) reader.start_record(space_ + std::string(name));
    space_.clear();
    after_tag_ = true;
  }
  if (reader.closed() && !in_call_) {
    if (!after_tag_) output.content(space_);
    space_.clear();
  }
}

void CallFormat::end_call(TextReader& reader, DialogOutput& output, bool is_call) {
  in_call_ = false;
  const std::string record = reader.take_record();
  if (is_call) {
    output.end_call();
    return;
  }
  output.abandon_call();
  output.content(record);
  after_tag_ = false;
}

}  // namespace moe4
