// What a way of writing answers is to the parser, and what those with calls inside content share.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "dialog/formats.h"
#include "dialog/output.h"
#include "dialog/text_reader.h"

namespace moe4 {

class DialogFormat {
 public:
  virtual ~DialogFormat() = default;
  /// Reads as far as it is certain what the text means; all of it when the reader is closed.
  virtual void read(TextReader& reader, DialogOutput& output) = 0;
};

enum class Progress { kMore, kDone, kBad };

/// Content in which an opening tag begins a call.
class CallFormat : public DialogFormat {
 public:
  void read(TextReader& reader, DialogOutput& output) final;

 protected:
  /// Tags that are looked for in content. May change after every call.
  virtual std::span<const std::string_view> tags() const = 0;
  /// The tag of this place in tags() was read: false when it only frames calls.
  virtual bool open(size_t tag) = 0;
  /// Reads on in the call. kBad: it is none.
  virtual Progress read_call(TextReader& reader, DialogOutput& output) = 0;
  /// The text has ended within the call: whether it is complete all the same.
  virtual bool is_complete() const = 0;

  /// As the functions of DialogOutput; the text read so far need not be told again.
  static void begin_call(TextReader& reader, DialogOutput& output, std::string name,
                         std::string id = {});
  static void tell(TextReader& reader, DialogOutput& output, std::string_view arguments);

 private:
  void read_content(TextReader& reader, DialogOutput& output);
  void end_call(TextReader& reader, DialogOutput& output, bool is_call);

  bool in_call_ = false;
  std::string space_;       // white space that is content unless a tag follows
  bool after_tag_ = false;  // space_ began right after a tag
};

/// Around reasoning.
struct ThinkTags {
  std::string_view open, close;
  /// An answer without reasoning may begin with `close`.
  bool is_closed_alone = false;
};
/// Of a format that writes tags: neither kNone nor kHarmony.
ThinkTags think_tags(ReasoningFormat format);

enum class Thinking { kUnknown, kBegun, kOver };

/// What the end of a prompt says of the answer's reasoning.
Thinking thinking_after(std::string_view prompt, const ThinkTags& tags);

/// All is content.
std::unique_ptr<DialogFormat> make_plain_format();
std::unique_ptr<DialogFormat> make_hermes_format();
/// `tool_list` may be null and is copied.
std::unique_ptr<DialogFormat> make_qwen3_coder_format(const nlohmann::json* tool_list);
std::unique_ptr<DialogFormat> make_minimax_m2_format(const nlohmann::json* tool_list);
std::unique_ptr<DialogFormat> make_minimax_m3_format(const nlohmann::json* tool_list);
std::unique_ptr<DialogFormat> make_glm45_format(const nlohmann::json* tool_list);
std::unique_ptr<DialogFormat> make_deepseek_v3_format();
std::unique_ptr<DialogFormat> make_deepseek_v31_format();
std::unique_ptr<DialogFormat> make_deepseek_v32_format(const nlohmann::json* tool_list);
std::unique_ptr<DialogFormat> make_deepseek_v4_format(const nlohmann::json* tool_list);
std::unique_ptr<DialogFormat> make_kimi_k2_format();
std::unique_ptr<DialogFormat> make_harmony_format(bool with_calls, bool with_reasoning);
/// Reasoning between think_tags(format) before what `rest` reads; of kThinkNow from the first word
/// on. The end of `prompt` may say otherwise.
std::unique_ptr<DialogFormat> make_think_format(ReasoningFormat format, std::string_view prompt,
                                                std::unique_ptr<DialogFormat> rest);

}  // namespace moe4
