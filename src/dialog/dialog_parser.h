// Splits the text of a model, as it comes, into content, reasoning and tool calls.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "dialog/formats.h"

namespace moe4 {

/// One step of an answer, in the order of the text.
struct Delta {
  enum class Kind { kContent, kReasoning, kToolCall };
  Kind kind = Kind::kContent;
  /// Content or reasoning; of a tool call a piece of its arguments. The pieces of a call are, one
  /// after the other, its arguments: a JSON object.
  std::string text;
  int64_t index = 0;  ///< which tool call, from 0
  std::string id;     ///< of a tool call; only in its first delta, as is `name`
  std::string name;
};

struct DialogOptions {
  ToolFormat tools = ToolFormat::kNone;
  ReasoningFormat reasoning = ReasoningFormat::kNone;
  /// The rendered prompt; its end says whether the reasoning has begun or is over. Only looked at
  /// while the parser is made.
  std::string_view prompt;
  /// The request's `tools` (OpenAI's list). Their schemas say of what type the parameters of
  /// qwen3_coder, minimax_m2, minimax_m3 and glm45 are, which are text. May be null; only looked at
  /// while the parser is made.
  const nlohmann::json* tool_list = nullptr;
  /// True: calls are handed out piece by piece; of a call that breaks off, what has been handed out
  /// stands, and only the rest is content. False: calls are handed out whole, and one that is not
  /// complete is content, as it was written.
  bool stream_calls = true;
  /// Makes the ids of calls; "call_" and 24 random digits when empty. kimi_k2 writes its own.
  std::function<std::string()> make_call_id;
};

/// Rules: white space beside a tag belongs to the tag and is dropped; all other text is handed out
/// to the byte, invalid UTF-8 as U+FFFD. What looks like a call but is none is content. A call is
/// complete with its JSON (qwen3_coder: </function>, minimax_m2, minimax_m3, deepseek_v32,
/// deepseek_v4: the end of its invoke, glm45: </tool_call>), whether or not the tags after it come.
/// Reasoning that does not end is reasoning; calls within it are not looked for.
///
/// How the text is cut into pieces does not change what the deltas add up to. The work is linear in
/// the text. The text must hold the format's tags (see format_tags) and no token after the end.
class DialogParser {
 public:
  explicit DialogParser(const DialogOptions& options);
  ~DialogParser();
  DialogParser(DialogParser&&) noexcept;
  DialogParser& operator=(DialogParser&&) noexcept;

  /// What has become certain with this piece, maybe nothing.
  std::vector<Delta> feed(std::string_view piece);
  /// What was held back. Nothing may be fed any more.
  std::vector<Delta> finish();
  /// Calls that are complete so far: with any, the answer's finish_reason is "tool_calls".
  int64_t complete_calls() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments;  ///< JSON text
};

/// An answer as a whole: what deltas add up to.
struct DialogMessage {
  std::string content;
  std::string reasoning;
  std::vector<ToolCall> tool_calls;

  void add(const std::vector<Delta>& deltas);
};

/// Parses a whole answer (options.stream_calls is taken to be false).
DialogMessage parse_dialog(const DialogOptions& options, std::string_view text);

}  // namespace moe4
