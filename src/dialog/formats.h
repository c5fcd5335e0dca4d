// How models write reasoning and tool calls into their text, and which way a model has.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace moe4 {

enum class ToolFormat {
  kNone,        ///< calls are not looked for
  kHermes,      ///< <tool_call>{"name": .., "arguments": {..}}</tool_call>: Qwen2.5, Qwen3
  kQwen3Coder,  ///< <tool_call><function=name><parameter=key>..: Qwen3-Coder, Qwen3.5, Nemotron
  kMiniMaxM2,   ///< <minimax:tool_call><invoke name="name"><parameter name="key">..
  kMiniMaxM3,   ///< ]<]minimax[>[<tool_call>]<]minimax[>[<invoke name="name">]<]minimax[>[<key>..
  kGlm45,       ///< <tool_call>name<arg_key>..</arg_key><arg_value>..: GLM-4.5 and later
  kDeepSeekV3,  ///< <｜tool▁call▁begin｜>function<｜tool▁sep｜>name and a block of JSON: V3, R1
  kDeepSeekV31,  ///< <｜tool▁call▁begin｜>name<｜tool▁sep｜>{..}: V3.1
  kDeepSeekV32,  ///< <｜DSML｜function_calls><｜DSML｜invoke name="name"><｜DSML｜parameter ..:
                 ///< V3.2
  kDeepSeekV4,  ///< <｜DSML｜tool_calls> and the same: V4
  kKimiK2,      ///< <|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{..}
  kHarmony,     ///< gpt-oss: messages in channels, calls are messages to functions.name
};

enum class ReasoningFormat {
  kNone,       ///< all is content
  kThink,      ///< <think>..</think>, opened by the prompt or by the first word of the answer
  kThinkNow,   ///< reasoning from the first word to </think>, unless the prompt has closed it
  kMiniMaxM3,  ///< <mm:think>..</mm:think>; an answer without reasoning may begin with the latter
  kHarmony,    ///< the analysis channel
};

/// By the names that vLLM has for its parsers: none, hermes, qwen3_coder, qwen3_xml, minimax_m2,
/// minimax_m3, glm45, glm47, deepseek_v3, deepseek_v31, deepseek_v32, deepseek_v4, kimi_k2,
/// harmony, openai. Throws Error(kUsage) listing them.
ToolFormat parse_tool_format(std::string_view name);
/// none, qwen3, glm45, deepseek_v3, deepseek_v4, kimi_k2, nemotron_v3, minimax_m2 (kThink),
/// deepseek_r1 (kThinkNow), minimax_m3, harmony, openai_gptoss. Throws Error(kUsage) listing them.
ReasoningFormat parse_reasoning_format(std::string_view name);
/// The first name of each.
std::string_view to_string(ToolFormat format);
std::string_view to_string(ReasoningFormat format);

struct FormatChoice {
  ToolFormat tools = ToolFormat::kNone;
  ReasoningFormat reasoning = ReasoningFormat::kNone;
  std::string why;  ///< a sentence for the log: what was seen in the template or in the config
};

/// What the chat template (its text, several ones joined) and, where it says nothing, `model_type`
/// of config.json tell. Unknown: kNone, and `why` says so.
FormatChoice choose_formats(std::string_view template_source, std::string_view model_type);
/// The same from the templates of a checkpoint folder.
FormatChoice formats_of_checkpoint(const std::filesystem::path& directory,
                                   std::string_view model_type);

/// The tags that the two formats look for. Some tokenizers hold them to be special tokens, which
/// decoding leaves out: tag_tokens() are those, for GenerateRequest::visible_tokens.
std::vector<std::string> format_tags(ToolFormat tools, ReasoningFormat reasoning);
std::vector<int32_t> tag_tokens(const Tokenizer& tokenizer, ToolFormat tools,
                                ReasoningFormat reasoning);

}  // namespace moe4
