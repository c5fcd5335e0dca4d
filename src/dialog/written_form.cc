// Tags around reasoning and calls, as the formats' readers expect them.
#include "dialog/written_form.h"

#include <algorithm>

#include "dialog/format.h"

namespace moe4 {
namespace {

constexpr std::string_view kFinalChannel = "<|channel|>final<|message|>";

bool is_plain(const std::string& name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  });
}

}  // namespace

std::optional<ReasoningWords> reasoning_words(ReasoningFormat format, std::string_view prompt) {
  switch (format) {
    case ReasoningFormat::kThink:
    case ReasoningFormat::kThinkNow:
    case ReasoningFormat::kMiniMaxM3: {
      const ThinkTags tags = think_tags(format);
      ReasoningWords words{
          .begin = std::string(tags.open), .end = std::string(tags.close), .has_line_breaks = true};
      const Thinking thinking = thinking_after(prompt, tags);
      if (thinking == Thinking::kOver) return std::nullopt;
      if (thinking == Thinking::kBegun || format == ReasoningFormat::kThinkNow) {
        words.begin = "";
      } else {
        words.is_optional = true;
      }
      return words;
    }
    case ReasoningFormat::kHarmony:
      if (!prompt.ends_with("<|start|>assistant")) return std::nullopt;
      return ReasoningWords{.begin = "<|channel|>analysis<|message|>",
                            .end = "<|end|><|start|>assistant",
                            .answer_begin = std::string(kFinalChannel),
                            .is_optional = true};
    case ReasoningFormat::kNone:
      break;
  }
  return std::nullopt;
}

std::optional<CallsWords> calls_words(ToolFormat format,
                                      const std::vector<std::string>& functions) {
  if (!std::all_of(functions.begin(), functions.end(), is_plain)) return std::nullopt;
  CallsWords words;
  for (const std::string& name : functions) {
    switch (format) {
      case ToolFormat::kHermes:
        words.of_functions.push_back(
            {.begin = "<tool_call>\n{\"name\": \"" + name + "\", \"arguments\": ",
             .end = "}\n</tool_call>"});
        words.separator = "\n";
        break;
      case ToolFormat::kDeepSeekV3:
        words.of_functions.push_back(
            {.begin = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>" + name + "\n```json\n",
             .end = "\n```<｜tool▁call▁end｜>"});
        words.before = "<｜tool▁calls▁begin｜>";
        words.separator = "\n";
        words.after = "<｜tool▁calls▁end｜>";
        break;
      case ToolFormat::kDeepSeekV31:
        words.of_functions.push_back({.begin = "<｜tool▁call▁begin｜>" + name + "<｜tool▁sep｜>",
                                      .end = "<｜tool▁call▁end｜>"});
        words.before = "<｜tool▁calls▁begin｜>";
        words.after = "<｜tool▁calls▁end｜>";
        break;
      case ToolFormat::kHarmony:
        words.of_functions.push_back({.begin = "<|channel|>commentary to=functions." + name +
                                               " <|constrain|>json<|message|>"});
        words.allows_more = false;  // <|call|> ends the turn
        break;
      default:
        return std::nullopt;
    }
  }
  return words;
}

}  // namespace moe4
