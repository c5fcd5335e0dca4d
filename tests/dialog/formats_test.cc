// Names of formats and what a checkpoint says of its own.
#include "dialog/formats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "base/error.h"

namespace moe4 {
namespace {

using testing::HasSubstr;

std::string file_text(const std::string& name) {
  std::ostringstream text;
  text << std::ifstream(MOE4_TEST_DATA "/text/" + name).rdbuf();
  return text.str();
}

TEST(DialogFormats, NamesAreReadBackAndOthersRefused) {
  for (const char* name :
       {"none", "hermes", "qwen3_coder", "minimax_m2", "minimax_m3", "glm45", "deepseek_v3",
        "deepseek_v31", "deepseek_v32", "deepseek_v4", "kimi_k2", "harmony"})
    EXPECT_EQ(to_string(parse_tool_format(name)), name);
  for (const char* name : {"none", "qwen3", "deepseek_r1", "minimax_m3", "harmony"})
    EXPECT_EQ(to_string(parse_reasoning_format(name)), name);
  EXPECT_EQ(parse_tool_format("openai"), ToolFormat::kHarmony);
  EXPECT_EQ(parse_reasoning_format("deepseek_v4"), ReasoningFormat::kThink);
  try {
    parse_tool_format("pythonic");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.what(), HasSubstr("no tool call parser is called pythonic: none, hermes"));
  }
  EXPECT_THROW(parse_reasoning_format("hermes"), Error);
}

TEST(DialogFormats, TheTemplateTells) {
  const auto tools = [](std::string_view source) { return choose_formats(source, "").tools; };
  EXPECT_EQ(tools(file_text("harmony.jinja")), ToolFormat::kHarmony);
  EXPECT_EQ(tools("<tool_call>\n{\"name\": \"f\", \"arguments\":"), ToolFormat::kHermes);
  EXPECT_EQ(tools("<tool_call>\n<function=x>"), ToolFormat::kQwen3Coder);
  EXPECT_EQ(tools("<tool_call>x<arg_key>"), ToolFormat::kGlm45);
  EXPECT_EQ(tools("<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + name + '\\n```json"),
            ToolFormat::kDeepSeekV3);
  EXPECT_EQ(tools("'<｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>'"), ToolFormat::kDeepSeekV31);
  EXPECT_EQ(tools("<|tool_calls_section_begin|><|tool_call_begin|>"), ToolFormat::kKimiK2);
  EXPECT_EQ(tools("'<minimax:tool_call>' ~ '<invoke name=\"'"), ToolFormat::kMiniMaxM2);
  EXPECT_EQ(tools("set ns = ']<]minimax[>[' ~ '<tool_call>' ~ '<invoke name=\"'"),
            ToolFormat::kMiniMaxM3);
  EXPECT_EQ(tools("'\\n\\n<' + '｜DSML｜' + 'function_calls>\\n'"), ToolFormat::kDeepSeekV32);
  EXPECT_EQ(tools("'\\n\\n<' + '｜DSML｜' + 'tool_calls>\\n'"), ToolFormat::kDeepSeekV4);
  // Look-alikes of formats that are not known.
  EXPECT_EQ(tools("<seed:tool_call><function=f>"), ToolFormat::kNone);
  EXPECT_EQ(tools("<tool_call>f(x)</tool_call>"), ToolFormat::kNone);
  EXPECT_EQ(choose_formats("<seed:think>", "").reasoning, ReasoningFormat::kNone);
  EXPECT_EQ(choose_formats("'<think>\\n'", "").reasoning, ReasoningFormat::kThink);
  EXPECT_EQ(choose_formats("'<mm:think>'", "").reasoning, ReasoningFormat::kMiniMaxM3);
  EXPECT_EQ(choose_formats(file_text("harmony.jinja"), "").reasoning, ReasoningFormat::kHarmony);
}

TEST(DialogFormats, ModelTypeTellsWhatTheTemplateLeavesOpen) {
  EXPECT_EQ(choose_formats("", "qwen3_5_moe").tools, ToolFormat::kQwen3Coder);
  EXPECT_EQ(choose_formats("", "qwen3_5_moe_text").tools, ToolFormat::kQwen3Coder);
  EXPECT_EQ(choose_formats("", "gpt_oss").reasoning, ReasoningFormat::kHarmony);
  for (const char* type : {"minimax_m3_vl", "minimax_m3_vl_text", "minimax_m3"}) {
    EXPECT_EQ(choose_formats("", type).tools, ToolFormat::kMiniMaxM3) << type;
    EXPECT_EQ(choose_formats("", type).reasoning, ReasoningFormat::kMiniMaxM3) << type;
  }
  EXPECT_EQ(choose_formats("", "deepseek_v32").tools, ToolFormat::kDeepSeekV32);
  EXPECT_EQ(choose_formats("", "deepseek_v4").tools, ToolFormat::kDeepSeekV4);
  EXPECT_EQ(choose_formats("", "deepseek_v4").reasoning, ReasoningFormat::kThink);
  // A template without <think> is one of a model that does not think.
  const FormatChoice choice = choose_formats("<|im_user|>", "kimi_k2");
  EXPECT_EQ(choice.tools, ToolFormat::kKimiK2);
  EXPECT_EQ(choice.reasoning, ReasoningFormat::kNone);
  EXPECT_THAT(choice.why, HasSubstr("tool calls: kimi_k2, since of model_type kimi_k2"));
}

TEST(DialogFormats, UnknownModelsHaveNoneAndItIsSaid) {
  const FormatChoice choice = choose_formats("{{ messages }}", "llama");
  EXPECT_EQ(choice.tools, ToolFormat::kNone);
  EXPECT_EQ(choice.reasoning, ReasoningFormat::kNone);
  EXPECT_THAT(choice.why, HasSubstr("none, since neither chat template nor model_type tell"));
}

TEST(DialogFormats, AFolderIsAskedForItsTemplates) {
  const std::filesystem::path folder = MOE4_EMBEDDED_MODELS "/tiny-qwen3_5-moe-nvfp4";
  EXPECT_FALSE(formats_of_checkpoint(folder, "qwen3_5_moe").why.empty());
  EXPECT_EQ(formats_of_checkpoint(folder, "qwen3_5_moe").tools, ToolFormat::kQwen3Coder);
}

TEST(DialogFormats, OfAFolderWithoutATemplateTheBuiltInOneIsAsked) {
  const FormatChoice choice =
      formats_of_checkpoint(MOE4_TEST_DATA "/checkpoints/deepseek_v4-modelopt-fp8", "deepseek_v4");
  EXPECT_EQ(choice.tools, ToolFormat::kDeepSeekV4);
  EXPECT_EQ(choice.reasoning, ReasoningFormat::kThink);
  EXPECT_EQ(formats_of_checkpoint(MOE4_TEST_DATA "/checkpoints/deepseek_v32-modelopt-nvfp4",
                                  "deepseek_v32")
                .tools,
            ToolFormat::kDeepSeekV32);
}

TEST(DialogFormats, TagsAreThoseOfBothFormats) {
  EXPECT_THAT(format_tags(ToolFormat::kHermes, ReasoningFormat::kThink),
              testing::ElementsAre("<tool_call>", "</tool_call>", "<think>", "</think>"));
  EXPECT_THAT(format_tags(ToolFormat::kDeepSeekV4, ReasoningFormat::kMiniMaxM3),
              testing::ElementsAre("｜DSML｜", "<mm:think>", "</mm:think>"));
  EXPECT_THAT(format_tags(ToolFormat::kNone, ReasoningFormat::kHarmony),
              testing::Contains("<|channel|>"));
  EXPECT_TRUE(format_tags(ToolFormat::kNone, ReasoningFormat::kNone).empty());
}

TEST(DialogFormats, SpecialTokensAmongTheTagsAreFound) {
  const auto tokenizer = Tokenizer::load(MOE4_TEST_DATA "/checkpoints/gpt_oss-mxfp4");
  const std::vector<int32_t> ids =
      tag_tokens(*tokenizer, ToolFormat::kHarmony, ReasoningFormat::kHarmony);
  EXPECT_EQ(ids.size(), 7U);
  EXPECT_THAT(ids, testing::Contains(*tokenizer->token_id("<|channel|>")));
  EXPECT_TRUE(tag_tokens(*tokenizer, ToolFormat::kHermes, ReasoningFormat::kThink).empty());
}

}  // namespace
}  // namespace moe4
