// Steps of a pre-tokenizer one after the other, without a tokenizer around them.
#include "text/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace moe4 {
namespace {

using ::testing::ElementsAre;

SplitStep split_at(const std::string& pattern, SplitBehavior behavior = SplitBehavior::kIsolated) {
  return {.regex = SplitRegex(pattern, /*literal=*/false, "tokenizer.json"), .behavior = behavior};
}

std::vector<std::string> pieces_of(const PreTokenizer& pre_tokenizer, const std::string& text) {
  std::vector<std::string> pieces;
  pre_tokenizer.split(text, /*at_start=*/true,
                      [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

// Upstream drops empty pieces after each step, so a space is put in front of none.
TEST(PreTokenizer, AnEmptyMatchIsNoPieceAndGetsNoMetaspace) {
  PreTokenizer pre_tokenizer;
  pre_tokenizer.steps.emplace_back(split_at("(?=[A-Z])"));
  EXPECT_THAT(pieces_of(pre_tokenizer, "aBcD"), ElementsAre("a", "Bc", "D"));
  pre_tokenizer.steps.emplace_back(
      MetaspaceStep{.replacement = "_", .prepend = MetaspaceStep::Prepend::kAlways});
  EXPECT_THAT(pieces_of(pre_tokenizer, "aBcD"), ElementsAre("_a", "_Bc", "_D"));
  // At the text's start too.
  EXPECT_THAT(pieces_of(pre_tokenizer, "AB c"), ElementsAre("_A", "_B_c"));
}

TEST(PreTokenizer, JoiningBehavioursLeaveNoEmptyPieceEither) {
  for (const SplitBehavior behavior :
       {SplitBehavior::kMergedWithPrevious, SplitBehavior::kMergedWithNext,
        SplitBehavior::kContiguous, SplitBehavior::kRemoved}) {
    PreTokenizer pre_tokenizer;
    pre_tokenizer.steps.emplace_back(split_at("(?=[A-Z])", behavior));
    pre_tokenizer.steps.emplace_back(
        MetaspaceStep{.replacement = "_", .prepend = MetaspaceStep::Prepend::kAlways});
    EXPECT_THAT(pieces_of(pre_tokenizer, "aBcD"), ElementsAre("_a", "_Bc", "_D"))
        << static_cast<int>(behavior);
  }
}

TEST(PreTokenizer, OnlyTheTextsFirstPieceIsAtTheStart) {
  PreTokenizer pre_tokenizer;
  pre_tokenizer.steps.emplace_back(split_at("-", SplitBehavior::kRemoved));
  pre_tokenizer.steps.emplace_back(
      MetaspaceStep{.replacement = "_", .prepend = MetaspaceStep::Prepend::kFirst});
  EXPECT_THAT(pieces_of(pre_tokenizer, "a-b-c d"), ElementsAre("_a", "b", "c_d"));
  EXPECT_THAT(pieces_of(pre_tokenizer, "-b"), ElementsAre("b"));
  EXPECT_THAT(pieces_of(pre_tokenizer, ""), ElementsAre());
}

}  // namespace
}  // namespace moe4
