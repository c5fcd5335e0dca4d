// What chat prints of reasoning.
#include "cli/answer_display.h"

#include <gtest/gtest.h>

namespace moe4::cli {
namespace {

using enum ReasoningFormat;

std::string shown(AnswerDisplay& display, std::string_view text) {
  std::string all;
  for (const char byte : text) all += display.show(std::string_view(&byte, 1));
  return all + display.finish();
}

TEST(AnswerDisplay, ReasoningIsDimmedOnATerminal) {
  AnswerDisplay display(kThink, "..<think>\n", true);
  const std::string text = "Hm.\n</think>\n\nYes.";
  EXPECT_EQ(shown(display, text), "\033[2mHm.\033[0m\n\nYes.");
  EXPECT_EQ(display.remembered(text), text);  // templates know what to do with <think>
  AnswerDisplay cut(kThink, "..<think>\n", true);
  EXPECT_EQ(shown(cut, "Hm"), "\033[2mHm\033[0m");
}

TEST(AnswerDisplay, ElsewhereTheTextIsAsTheModelWritesIt) {
  const std::string text = "<think>Hm.</think>Yes.\xff";
  AnswerDisplay plain(kThink, "", false), none(kNone, "", true);
  EXPECT_EQ(shown(plain, text), text);
  EXPECT_EQ(shown(none, text), text);
}

TEST(AnswerDisplay, ChannelsOfHarmonyAreParagraphsAndTheFinalOneIsRemembered) {
  const std::string text =
      "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.";
  AnswerDisplay plain(kHarmony, "", false), styled(kHarmony, "", true);
  EXPECT_EQ(shown(plain, text), "Hm.\n\nYes.");
  EXPECT_EQ(plain.remembered(text), "Yes.");
  EXPECT_EQ(shown(styled, text), "\033[2mHm.\033[0m\n\nYes.");
}

}  // namespace
}  // namespace moe4::cli
