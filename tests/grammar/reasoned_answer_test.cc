// Reasoning of any words before an answer that a grammar holds.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "grammar/grammar.h"
#include "grammar/token_masks.h"

namespace moe4 {
namespace {

std::shared_ptr<const Grammar> numbers() { return compile_json_schema(R"({"type": "integer"})"); }

TEST(ReasonedAnswer, ReasoningEndsAtItsFirstEnd) {
  const auto grammar = compile_reasoned_answer(
      {.begin = "<think>", .end = "</think>", .has_line_breaks = true}, *numbers());
  for (const char* good :
       {"<think></think>1", "<think>\nWell, </thin {\"a\": <think>\n</think>\n\n-20",
        "<think><</think>\n7"}) {
    EXPECT_TRUE(grammar->accepts(good)) << good;
  }
  for (const char* bad : {"1", "<think>1", "<think></think>", "<think></think>a",
                          "<think>a</think> 1", "<think>a</think>\n\n\n1", "a<think></think>1",
                          "<think>a</think>b</think>1", "<think>\xff</think>1"}) {
    EXPECT_FALSE(grammar->accepts(bad)) << bad;
  }
}

TEST(ReasonedAnswer, ReasoningCanHaveBegunOrBeLeftOut) {
  const auto begun = compile_reasoned_answer({.end = "</think>"}, *numbers());
  EXPECT_TRUE(begun->accepts("a</think>1"));
  EXPECT_FALSE(begun->accepts("1"));
  EXPECT_FALSE(begun->accepts("a</think>\n1"));
  const auto optional = compile_reasoned_answer(
      {.begin = "<think>", .end = "</think>", .is_optional = true}, *numbers());
  EXPECT_TRUE(optional->accepts("<think>a</think>1"));
  EXPECT_TRUE(optional->accepts("12"));
  EXPECT_FALSE(optional->accepts("a</think>1"));
}

TEST(ReasonedAnswer, TheAnswerMayBeginAsTheReasoningOrWithLineBreaks) {
  const auto grammar = compile_reasoned_answer(
      {.begin = "<think>", .end = "</think>", .is_optional = true, .has_line_breaks = true},
      *compile_choice({"<thin", "<think>", "\n", "\n\nyes"}));
  for (const char* good : {"<thin", "<think>", "<think></think><think>", "<think></think>\n",
                           "<think></think>\n\n\n", "<think></think>\n\n\n\nyes"}) {
    EXPECT_TRUE(grammar->accepts(good)) << good;
  }
  EXPECT_FALSE(grammar->accepts("<think></think>yes"));
}

// Channels of gpt-oss, whose tags are special tokens.
TEST(ReasonedAnswer, SpecialTokensAreNoText) {
  const std::string channel = special_token_text("<|channel|>"),
                    message = special_token_text("<|message|>");
  const auto grammar = compile_reasoned_answer(
      {.begin = channel + "analysis" + message,
       .end = special_token_text("<|end|>") + special_token_text("<|start|>") + "assistant",
       .answer_begin = channel + "final" + message,
       .is_optional = true},
      *compile_json_schema(R"({"type": "string"})"));
  const std::vector<std::string> tokens = {channel,
                                           message,
                                           special_token_text("<|end|>"),
                                           special_token_text("<|start|>"),
                                           "analysis",
                                           "final",
                                           "assistant",
                                           "<|end|>",
                                           "\"",
                                           "\"<|",
                                           "x"};
  const auto masks =
      std::make_shared<const TokenMasks>(grammar, std::make_shared<const Vocabulary>(tokens));
  GrammarMatcher matcher(masks);
  // Before each of these tokens exactly those may come.
  const std::vector<std::pair<int32_t, std::vector<int32_t>>> walk = {
      {0, {0}},
      {4, {4, 5}},
      {1, {1}},
      {7, {2, 4, 5, 6, 7, 8, 9, 10}},  // the tag as a text ends nothing
      {10, {2, 4, 5, 6, 7, 8, 9, 10}},
      {2, {2, 4, 5, 6, 7, 8, 9, 10}},
      {3, {3}},
      {6, {6}},
      {0, {0}},
      {5, {5}},
      {1, {1}},
      {9, {8, 9}},
      {7, {4, 5, 6, 7, 8, 10}},
      {8, {4, 5, 6, 7, 8, 10}},
  };
  std::vector<uint64_t> words(masks->vocabulary().mask_words());
  for (size_t step = 0; step < walk.size(); ++step) {
    matcher.fill_mask(words);
    uint64_t expected = 0;
    for (const int32_t id : walk[step].second) expected |= uint64_t{1} << id;
    EXPECT_EQ(words[0], expected) << step;
    ASSERT_TRUE(matcher.accept(walk[step].first)) << step;
  }
  EXPECT_TRUE(matcher.must_end());
}

}  // namespace
}  // namespace moe4
