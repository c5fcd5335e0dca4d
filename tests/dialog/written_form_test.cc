// What is written around reasoning and calls is what the readers take off again.
#include "dialog/written_form.h"

#include <gtest/gtest.h>

#include "dialog/dialog_parser.h"

namespace moe4 {
namespace {

TEST(WrittenForm, ReasoningFollowsFromTheEndOfThePrompt) {
  const auto open = reasoning_words(ReasoningFormat::kThink, "<|im_start|>assistant\n");
  ASSERT_TRUE(open);
  EXPECT_EQ(open->begin, "<think>");
  EXPECT_TRUE(open->is_optional);
  const auto begun = reasoning_words(ReasoningFormat::kThink, "assistant\n<think>\n");
  ASSERT_TRUE(begun);
  EXPECT_EQ(begun->begin, "");
  EXPECT_FALSE(begun->is_optional);
  const auto now = reasoning_words(ReasoningFormat::kThinkNow, "assistant\n");
  ASSERT_TRUE(now);
  EXPECT_EQ(now->begin, "");
  EXPECT_FALSE(now->is_optional);
  EXPECT_FALSE(reasoning_words(ReasoningFormat::kThink, "<think>\n\n</think>\n\n"));
  EXPECT_FALSE(reasoning_words(ReasoningFormat::kThinkNow, "<think>\n\n</think>\n\n"));
  EXPECT_FALSE(reasoning_words(ReasoningFormat::kMiniMaxM3, "]~b]ai\n</mm:think>"));
  EXPECT_FALSE(reasoning_words(ReasoningFormat::kNone, "<think>"));
  EXPECT_TRUE(reasoning_words(ReasoningFormat::kHarmony, "<|start|>assistant"));
  EXPECT_FALSE(reasoning_words(ReasoningFormat::kHarmony, "<|channel|>final<|message|>The"));
}

TEST(WrittenForm, ReadersSplitReasoningFromTheAnswer) {
  for (const auto& [format, prompt] : {std::pair(ReasoningFormat::kThink, "assistant\n"),
                                       {ReasoningFormat::kThink, "assistant\n<think>\n"},
                                       {ReasoningFormat::kThinkNow, "assistant\n"},
                                       {ReasoningFormat::kMiniMaxM3, "]~b]ai\n"},
                                       {ReasoningFormat::kMiniMaxM3, "]~b]ai\n<mm:think>"},
                                       {ReasoningFormat::kHarmony, "<|start|>assistant"}}) {
    const auto words = reasoning_words(format, prompt);
    ASSERT_TRUE(words);
    const std::string lines = words->has_line_breaks ? "\n\n" : "";
    const DialogMessage message =
        parse_dialog({.reasoning = format, .prompt = prompt},
                     words->begin + "Why?" + words->end + lines + words->answer_begin + "{}");
    EXPECT_EQ(message.reasoning, "Why?");
    EXPECT_EQ(message.content, "{}");
  }
}

TEST(WrittenForm, ReadersFindTheCalls) {
  for (const ToolFormat format : {ToolFormat::kHermes, ToolFormat::kDeepSeekV3,
                                  ToolFormat::kDeepSeekV31, ToolFormat::kHarmony}) {
    SCOPED_TRACE(to_string(format));
    const auto words = calls_words(format, {"get_time", "get_time.in"});
    ASSERT_TRUE(words);
    const auto& calls = words->of_functions;
    ASSERT_EQ(calls.size(), 2u);
    std::string text = words->before + calls[1].begin + R"({"city": "Rom"})" + calls[1].end;
    if (words->allows_more) text += words->separator + calls[0].begin + "{}" + calls[0].end;
    const DialogMessage message = parse_dialog({.tools = format}, text + words->after);
    EXPECT_EQ(message.content, "");
    ASSERT_EQ(message.tool_calls.size(), words->allows_more ? 2u : 1u);
    EXPECT_EQ(message.tool_calls[0].name, "get_time.in");
    EXPECT_EQ(message.tool_calls[0].arguments, R"({"city": "Rom"})");
    if (!words->allows_more) continue;
    EXPECT_EQ(message.tool_calls[1].name, "get_time");
    EXPECT_EQ(message.tool_calls[1].arguments, "{}");
  }
}

TEST(WrittenForm, OtherFormatsAndNamesHaveNoWords) {
  for (const ToolFormat format :
       {ToolFormat::kNone, ToolFormat::kQwen3Coder, ToolFormat::kGlm45, ToolFormat::kMiniMaxM2,
        ToolFormat::kMiniMaxM3, ToolFormat::kDeepSeekV32, ToolFormat::kDeepSeekV4,
        ToolFormat::kKimiK2}) {
    EXPECT_FALSE(calls_words(format, {"get_time"})) << to_string(format);
  }
  for (const char* name : {"", "get time", "a\"", "a<", "ä"}) {
    EXPECT_FALSE(calls_words(ToolFormat::kHermes, {"get_time", name})) << name;
  }
}

}  // namespace
}  // namespace moe4
