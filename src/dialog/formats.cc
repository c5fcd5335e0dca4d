// Names of formats, and what a model's template and type say of its own.
#include "dialog/formats.h"

#include <array>
#include <optional>
#include <utility>

#include "base/error.h"
#include "dialog/format.h"
#include "text/template_files.h"

namespace moe4 {
namespace {

template <typename Format>
using Names = std::pair<std::string_view, Format>;

// The first name of a format is its own, others are what else users know.
constexpr std::array<Names<ToolFormat>, 15> kToolNames = {{
    {"none", ToolFormat::kNone},
    {"hermes", ToolFormat::kHermes},
    {"qwen3_coder", ToolFormat::kQwen3Coder},
    {"qwen3_xml", ToolFormat::kQwen3Coder},
    {"minimax_m2", ToolFormat::kMiniMaxM2},
    {"minimax_m3", ToolFormat::kMiniMaxM3},
    {"glm45", ToolFormat::kGlm45},
    {"glm47", ToolFormat::kGlm45},
    {"deepseek_v3", ToolFormat::kDeepSeekV3},
    {"deepseek_v31", ToolFormat::kDeepSeekV31},
    {"deepseek_v32", ToolFormat::kDeepSeekV32},
    {"deepseek_v4", ToolFormat::kDeepSeekV4},
    {"kimi_k2", ToolFormat::kKimiK2},
    {"harmony", ToolFormat::kHarmony},
    {"openai", ToolFormat::kHarmony},
}};
constexpr std::array<Names<ReasoningFormat>, 12> kReasoningNames = {{
    {"none", ReasoningFormat::kNone},
    {"qwen3", ReasoningFormat::kThink},
    {"glm45", ReasoningFormat::kThink},
    {"deepseek_v3", ReasoningFormat::kThink},
    {"deepseek_v4", ReasoningFormat::kThink},
    {"kimi_k2", ReasoningFormat::kThink},
    {"nemotron_v3", ReasoningFormat::kThink},
    {"minimax_m2", ReasoningFormat::kThink},
    {"deepseek_r1", ReasoningFormat::kThinkNow},
    {"minimax_m3", ReasoningFormat::kMiniMaxM3},
    {"harmony", ReasoningFormat::kHarmony},
    {"openai_gptoss", ReasoningFormat::kHarmony},
}};

template <typename Format, size_t n>
Format parse_name(const std::array<Names<Format>, n>& names, std::string_view name,
                  const std::string& what) {
  std::string all;
  for (const auto& [known, format] : names) {
    if (known == name) return format;
    all += (all.empty() ? "" : ", ") + std::string(known);
  }
  throw Error(ErrorCode::kUsage,
              "no " + what + " parser is called " + printable(std::string(name)) + ": " + all);
}

template <typename Format, size_t n>
std::string_view name_of(const std::array<Names<Format>, n>& names, Format format) {
  for (const auto& [known, one] : names) {
    if (one == format) return known;
  }
  return "none";
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

struct Sign {
  std::string_view text;  // in the template
  std::string_view and_text;
  ToolFormat tools;
};

constexpr std::array<Sign, 11> kSigns = {{
    {"<|channel|>", "<|message|>", ToolFormat::kHarmony},
    {"<|tool_calls_section_begin|>", "<|tool_call_begin|>", ToolFormat::kKimiK2},
    {"<｜tool▁sep｜>", "```json", ToolFormat::kDeepSeekV3},
    {"<｜tool▁sep｜>", "<｜tool▁call▁begin｜>", ToolFormat::kDeepSeekV31},
    {"｜DSML｜", "tool_calls>", ToolFormat::kDeepSeekV4},
    {"｜DSML｜", "function_calls>", ToolFormat::kDeepSeekV32},
    {"]<]minimax[>[", "<invoke name=", ToolFormat::kMiniMaxM3},
    {"<minimax:tool_call>", "<invoke name=", ToolFormat::kMiniMaxM2},
    {"<arg_key>", "<tool_call>", ToolFormat::kGlm45},
    {"<function=", "<tool_call>", ToolFormat::kQwen3Coder},
    {"<tool_call>", "arguments\"", ToolFormat::kHermes},
}};

struct Family {
  std::string_view model_type;
  ToolFormat tools;
  ReasoningFormat reasoning;
};

// For models whose template has no calls, or that have none.
constexpr std::array<Family, 13> kFamilies = {{
    {"gpt_oss", ToolFormat::kHarmony, ReasoningFormat::kHarmony},
    {"kimi_k2", ToolFormat::kKimiK2, ReasoningFormat::kThink},
    {"deepseek_v3", ToolFormat::kDeepSeekV3, ReasoningFormat::kThink},
    {"glm4_moe", ToolFormat::kGlm45, ReasoningFormat::kThink},
    {"deepseek_v32", ToolFormat::kDeepSeekV32, ReasoningFormat::kThink},
    {"deepseek_v4", ToolFormat::kDeepSeekV4, ReasoningFormat::kThink},
    {"minimax_m2", ToolFormat::kMiniMaxM2, ReasoningFormat::kThink},
    {"minimax_m3", ToolFormat::kMiniMaxM3, ReasoningFormat::kMiniMaxM3},
    {"minimax_m3_vl", ToolFormat::kMiniMaxM3, ReasoningFormat::kMiniMaxM3},
    {"qwen3_5_moe", ToolFormat::kQwen3Coder, ReasoningFormat::kThink},
    {"qwen3_next", ToolFormat::kHermes, ReasoningFormat::kThink},
    {"qwen3_moe", ToolFormat::kHermes, ReasoningFormat::kThink},
    {"nemotron_h", ToolFormat::kQwen3Coder, ReasoningFormat::kThink},
}};

}  // namespace

ToolFormat parse_tool_format(std::string_view name) {
  return parse_name(kToolNames, name, "tool call");
}
ReasoningFormat parse_reasoning_format(std::string_view name) {
  return parse_name(kReasoningNames, name, "reasoning");
}
std::string_view to_string(ToolFormat format) { return name_of(kToolNames, format); }
std::string_view to_string(ReasoningFormat format) { return name_of(kReasoningNames, format); }

FormatChoice choose_formats(std::string_view template_source, std::string_view model_type) {
  FormatChoice choice;
  std::string tools_why, reasoning_why;
  for (const Sign& sign : kSigns) {
    if (!contains(template_source, sign.text) || !contains(template_source, sign.and_text))
      continue;
    choice.tools = sign.tools;
    tools_why = "the chat template writes " + std::string(sign.text);
    break;
  }
  if (choice.tools == ToolFormat::kHarmony) {
    choice.reasoning = ReasoningFormat::kHarmony;
    reasoning_why = tools_why;
  } else if (contains(template_source, "<mm:think>")) {
    choice.reasoning = ReasoningFormat::kMiniMaxM3;
    reasoning_why = "the chat template writes <mm:think>";
  } else if (contains(template_source, "<think>") || contains(template_source, "</think>")) {
    choice.reasoning = ReasoningFormat::kThink;
    reasoning_why = "the chat template writes <think>";
  }
  // What is inside a model that also sees has its own model_type.
  if (model_type.ends_with("_text")) model_type.remove_suffix(5);
  for (const Family& family : kFamilies) {
    if (family.model_type != model_type) continue;
    const std::string why = "of model_type " + std::string(model_type);
    if (tools_why.empty()) {
      choice.tools = family.tools;
      tools_why = why;
    }
    if (reasoning_why.empty() && template_source.empty()) {
      choice.reasoning = family.reasoning;
      reasoning_why = why;
    }
  }
  const std::string nothing = "neither chat template nor model_type tell";
  choice.why = "tool calls: " + std::string(to_string(choice.tools)) + ", since " +
               (tools_why.empty() ? nothing : tools_why) +
               "; reasoning: " + std::string(to_string(choice.reasoning)) + ", since " +
               (reasoning_why.empty() ? nothing : reasoning_why);
  return choice;
}

FormatChoice formats_of_checkpoint(const std::filesystem::path& directory,
                                   std::string_view model_type) {
  std::string sources;
  for (const NamedTemplate& one : find_templates(directory)) sources += one.source + "\n";
  return choose_formats(sources, model_type);
}

std::vector<std::string> format_tags(ToolFormat tools, ReasoningFormat reasoning) {
  std::vector<std::string> tags;
  switch (tools) {
    case ToolFormat::kHermes:
    case ToolFormat::kQwen3Coder:
      tags = {"<tool_call>", "</tool_call>"};
      break;
    case ToolFormat::kMiniMaxM2:
      tags = {"<minimax:tool_call>", "</minimax:tool_call>"};
      break;
    case ToolFormat::kMiniMaxM3:
      tags = {"]<]minimax[>[", "<tool_call>", "</tool_call>"};
      break;
    case ToolFormat::kGlm45:
      tags = {"<tool_call>", "</tool_call>", "<arg_key>",
              "</arg_key>",  "<arg_value>",  "</arg_value>"};
      break;
    case ToolFormat::kDeepSeekV3:
    case ToolFormat::kDeepSeekV31:
      tags = {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
              "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"};
      break;
    case ToolFormat::kDeepSeekV32:
    case ToolFormat::kDeepSeekV4:
      tags = {"｜DSML｜"};
      break;
    case ToolFormat::kKimiK2:
      tags = {"<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>",
              "<|tool_call_end|>", "<|tool_calls_section_end|>"};
      break;
    default:
      break;
  }
  if (tools == ToolFormat::kHarmony || reasoning == ReasoningFormat::kHarmony) {
    for (const char* tag : {"<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>",
                            "<|return|>", "<|call|>"})
      tags.emplace_back(tag);
  }
  if (reasoning != ReasoningFormat::kNone && reasoning != ReasoningFormat::kHarmony) {
    const ThinkTags think = think_tags(reasoning);
    tags.insert(tags.end(), {std::string(think.open), std::string(think.close)});
  }
  return tags;
}

std::vector<int32_t> tag_tokens(const Tokenizer& tokenizer, ToolFormat tools,
                                ReasoningFormat reasoning) {
  std::vector<int32_t> ids;
  for (const std::string& tag : format_tags(tools, reasoning)) {
    const std::optional<int32_t> id = tokenizer.token_id(tag);
    if (id && tokenizer.is_special(*id)) ids.push_back(*id);
  }
  return ids;
}

}  // namespace moe4
