// Answers under a grammar, of a model that follows a script.
#include "engine/constraint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/generator.h"
#include "engine/scripted_model.h"
#include "support/byte_tokenizer.h"

namespace moe4 {
namespace {

using testing::ScriptedModel;

constexpr int64_t kVocab = 300;  // more than the tokenizer has, as checkpoints pad theirs

// Likes the bytes of `favourites` from the first to the last, then the stop token, then all others.
ScriptedModel liking(const std::string& favourites) {
  return ScriptedModel(kVocab, 1000, [=](const std::vector<int32_t>&) {
    std::vector<float> logits(kVocab, 0.0f);
    logits[testing::kImEnd] = 1.0f;
    logits[kVocab - 1] = 90.0f;
    for (size_t i = 0; i < favourites.size(); ++i) {
      logits[static_cast<unsigned char>(favourites[i])] = 50.0f - static_cast<float>(i);
    }
    return logits;
  });
}

class Constrained : public ::testing::Test {
 protected:
  GenerateResult answer(const ScriptedModel& model, std::shared_ptr<const Grammar> grammar,
                        int64_t min_new_tokens = 0, float temperature = 0, uint64_t seed = 0) {
    GenerateRequest request;
    request.prompt = {65};
    request.max_new_tokens = 200;
    request.min_new_tokens = min_new_tokens;
    request.stop_token_ids = {testing::kEndOfText, testing::kImEnd};
    request.sampling.temperature = temperature;
    request.sampling.seed = seed;
    request.grammar = std::make_shared<const TokenMasks>(std::move(grammar), vocabulary_);
    return generate(model, tokenizer_.get(), request);
  }

  std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::parse(testing::byte_tokenizer_json(), "test");
  std::shared_ptr<const Vocabulary> vocabulary_ = std::make_shared<const Vocabulary>(*tokenizer_);
};

TEST_F(Constrained, TheLikeliestAllowedTokenIsTakenAndTheEndNeedsNoStopToken) {
  const GenerateResult result = answer(liking("xdcb"), compile_choice({"abc", "cd", "ce"}));
  EXPECT_EQ(result.text, "cd");
  EXPECT_EQ(result.reason, StopReason::kGrammarEnd);
  EXPECT_EQ(result.tokens.size(), 2U);
}

TEST_F(Constrained, AStopTokenComesOnlyWhereTheAnswerMayEnd) {
  // Stops are liked better than "a", but the answer needs two of them.
  const GenerateResult result = answer(liking(""), compile_regex("a{2,}"));
  EXPECT_EQ(result.text, "aa");
  EXPECT_EQ(result.reason, StopReason::kStopToken);
  // Where the answer cannot be as long as asked for, it ends all the same.
  const GenerateResult longer = answer(liking(""), compile_regex("a{2,5}"), 4);
  EXPECT_EQ(longer.text, "aaaa");
  const GenerateResult longest = answer(liking(""), compile_regex("a{2,5}"), 9);
  EXPECT_EQ(longest.text, "aaaaa");
  EXPECT_EQ(longest.reason, StopReason::kGrammarEnd);
}

TEST_F(Constrained, SampledAnswersAreOfTheGrammar) {
  const auto grammar = compile_json_schema(
      R"({"type":"object","properties":{"name":{"type":"string","maxLength":8},"age":{"type":
          "integer","minimum":0,"maximum":150}},"required":["name","age"],
          "additionalProperties":false})");
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const GenerateResult result = answer(liking("\"}:{,1na"), grammar, 0, 60.0f, seed);
    EXPECT_TRUE(grammar->accepts(result.text)) << result.text;
    EXPECT_EQ(result.reason, StopReason::kGrammarEnd);
  }
}

TEST_F(Constrained, ADeviceGetsTheMaskOfEveryNextToken) {
  const ScriptedModel model = liking("xdcb");
  GenerateRequest request;
  request.prompt = {65};
  request.max_new_tokens = 9;
  request.stop_token_ids = {testing::kImEnd};
  request.grammar = std::make_shared<const TokenMasks>(compile_regex("ab?"), vocabulary_);
  Generation generation(model, tokenizer_.get(), request);
  const EngineRequest on_device = generation.engine_request();
  EXPECT_TRUE(on_device.has_masks);
  const auto allowed = [&] {
    DeviceChoice choice;
    EXPECT_TRUE(on_device.device_choice(choice));
    EXPECT_GE(choice.mask.size(), static_cast<size_t>((kVocab + 63) / 64));
    std::vector<int> ids;
    for (int id = 0; id < kVocab; ++id) {
      if ((choice.mask[static_cast<size_t>(id) / 64] >> (id % 64) & 1) != 0) ids.push_back(id);
    }
    return ids;
  };
  EXPECT_EQ(allowed(), std::vector<int>{'a'});
  EXPECT_EQ(on_device.take_token('a'), 'a');
  EXPECT_EQ(allowed(), (std::vector<int>{'b', testing::kImEnd}));
  EXPECT_EQ(on_device.take_token('b'), std::nullopt) << "nothing can follow";
}

// The error comes from where the host chooses, so that it ends this request alone.
TEST_F(Constrained, ADeviceIsNotAskedWhereNothingMayFollow) {
  const ScriptedModel model = liking("a");
  const auto letters = std::make_shared<const Vocabulary>(std::vector<std::string>{"a", "b"});
  GenerateRequest request;
  request.prompt = {0};
  request.max_new_tokens = 9;
  request.grammar = std::make_shared<const TokenMasks>(compile_regex("c"), letters);
  Generation generation(model, nullptr, request);
  DeviceChoice choice;
  EXPECT_FALSE(generation.engine_request().device_choice(choice));
}

TEST_F(Constrained, AVocabularyWithoutAWayOnIsAnError) {
  const auto letters = std::make_shared<const Vocabulary>(std::vector<std::string>{"a", "b"});
  Constraint constraint(std::make_shared<const TokenMasks>(compile_regex("ac"), letters), 2);
  EXPECT_EQ(constraint.allowed({}, true)[0], 1U);
  constraint.take(0);
  EXPECT_THROW(constraint.allowed({}, true), Error);
}

}  // namespace
}  // namespace moe4
