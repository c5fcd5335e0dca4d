// The loop of one request against a model that follows a script.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "engine/finite.h"
#include "engine/generator.h"
#include "engine/scripted_model.h"
#include "support/byte_tokenizer.h"

namespace moe4 {
namespace {

using testing::LogitsFor;
using testing::only;
using testing::ScriptedModel;

constexpr int64_t kVocab = 259;

// Says `text`, byte by byte, then the stop token for ever.
ScriptedModel saying(const std::string& text, size_t prompt, int64_t context = 1000) {
  return ScriptedModel(kVocab, context, [=](const std::vector<int32_t>& tokens) {
    const size_t at = tokens.size() - prompt;
    return only(at < text.size() ? static_cast<unsigned char>(text[at]) : testing::kImEnd, kVocab);
  });
}

GenerateRequest request(size_t prompt, int64_t max_new_tokens) {
  GenerateRequest r;
  r.prompt.assign(prompt, 65);
  r.max_new_tokens = max_new_tokens;
  r.stop_token_ids = {testing::kEndOfText, testing::kImEnd};
  return r;
}

class GenerateScript : public ::testing::Test {
 protected:
  std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::parse(testing::byte_tokenizer_json(), "test");
};

TEST_F(GenerateScript, TheModelSeesThePromptOnceInOrderAndOnlyTheLastLogitsAreAskedFor) {
  for (const int64_t chunk : {1, 4, 10, 11, 64}) {
    ScriptedModel model = saying("abc", 10);
    GenerateRequest r = request(10, 8);
    std::iota(r.prompt.begin(), r.prompt.end(), 100);
    r.prefill_chunk = chunk;
    const GenerateResult result = generate(model, tokenizer_.get(), r);
    EXPECT_EQ(result.text, "abc");
    std::vector<int32_t> expected = r.prompt;
    for (const int32_t id : {'a', 'b', 'c'}) expected.push_back(id);
    EXPECT_EQ(model.seen, expected) << chunk;
    EXPECT_EQ(model.capacity, 18);
    const auto prefill_steps = static_cast<size_t>((10 + chunk - 1) / chunk);
    ASSERT_EQ(model.steps.size(), prefill_steps + 3);
    for (size_t i = 0; i < model.steps.size(); ++i) {
      EXPECT_EQ(model.steps[i].which,
                i + 1 < prefill_steps ? LogitsFor::kNone : LogitsFor::kLastToken);
    }
  }
}

TEST_F(GenerateScript, AnyOfTheStopTokensEndsTheAnswerAndIgnoreEosDoesNot) {
  for (const int32_t stop : {testing::kEndOfText, testing::kImEnd}) {
    ScriptedModel model(kVocab, 100, [=](const std::vector<int32_t>& tokens) {
      return only(tokens.size() == 3 ? stop : 'x', kVocab);
    });
    GenerateRequest r = request(1, 6);
    const GenerateResult stopped = generate(model, tokenizer_.get(), r);
    EXPECT_EQ(stopped.reason, StopReason::kStopToken);
    EXPECT_EQ(stopped.tokens, (std::vector<int32_t>{'x', 'x'}));
    r.ignore_eos = true;
    const GenerateResult whole = generate(model, tokenizer_.get(), r);
    EXPECT_EQ(whole.reason, StopReason::kLength);
    EXPECT_EQ(whole.tokens, (std::vector<int32_t>{'x', 'x', stop, 'x', 'x', 'x'}));
    EXPECT_EQ(whole.text, "xxxxx");
  }
}

// Two tokens, the first liked a little more: a penalty on it shows at once.
TEST_F(GenerateScript, TheRepetitionPenaltySeesPromptAndAnswer) {
  ScriptedModel model(kVocab, 100, [](const std::vector<int32_t>&) {
    std::vector<float> logits(kVocab, 0.0f);
    logits['a'] = 4.0f;
    logits['b'] = 3.0f;
    logits['c'] = 2.5f;
    return logits;
  });
  GenerateRequest r = request(1, 3);
  r.sampling.repetition_penalty = 1.5f;
  // 4, 3, 2.5; then a is 2.67: b; then b is 2: a again at 2.67.
  EXPECT_EQ(generate(model, nullptr, r).tokens, (std::vector<int32_t>{'a', 'b', 'a'}));
  r.prompt = {'a'};
  EXPECT_EQ(generate(model, nullptr, r).tokens, (std::vector<int32_t>{'b', 'a', 'a'}));
  r.prompt = {'a', 'b', 'b'};
  EXPECT_EQ(generate(model, nullptr, r).tokens, (std::vector<int32_t>{'a', 'a', 'a'}));
}

TEST_F(GenerateScript, PresenceAndFrequencyPenaltiesSeeTheAnswerOnly) {
  ScriptedModel model(kVocab, 100, [](const std::vector<int32_t>&) {
    std::vector<float> logits(kVocab, 0.0f);
    logits['a'] = 4.0f;
    logits['b'] = 3.5f;
    return logits;
  });
  GenerateRequest r = request(1, 4);
  r.prompt = {'a', 'a', 'a'};
  r.sampling.presence_penalty = 1.0f;
  EXPECT_EQ(generate(model, nullptr, r).tokens, (std::vector<int32_t>{'a', 'b', 'a', 'a'}));
  r.sampling.presence_penalty = 0;
  r.sampling.frequency_penalty = 1.0f;
  EXPECT_EQ(generate(model, nullptr, r).tokens, (std::vector<int32_t>{'a', 'b', 'a', 'b'}));
}

TEST_F(GenerateScript, TextHeldBackForAStopStringComesInTheEnd) {
  const auto check = [&](const GenerateRequest& r, ScriptedModel model, StopReason reason) {
    std::string streamed;
    const GenerateResult result =
        generate(model, tokenizer_.get(), r, [&](const std::string& piece) {
          streamed += piece;
          return true;
        });
    EXPECT_EQ(result.reason, reason);
    EXPECT_EQ(result.text, "hello STO");
    EXPECT_EQ(streamed, result.text);
  };
  GenerateRequest r = request(2, 50);
  r.stop_strings = {"STOP"};
  check(r, saying("hello STO", 2), StopReason::kStopToken);
  check(r, saying("hello STOP it", 2, 11), StopReason::kContextFull);
  r.max_new_tokens = 9;
  check(r, saying("hello STOP it", 2), StopReason::kLength);
}

TEST_F(GenerateScript, ACharacterThatTheLengthCutsShowsAsSuchInTheEnd) {
  GenerateRequest r = request(1, 4);
  std::string streamed;
  ScriptedModel model = saying("ab\xE2\x82\xAC", 1);
  const GenerateResult result = generate(model, tokenizer_.get(), r, [&](const std::string& piece) {
    streamed += piece;
    return true;
  });
  EXPECT_EQ(result.text, "ab\xEF\xBF\xBD");
  EXPECT_EQ(streamed, result.text);
  r.stop_strings = {"\xEF\xBF\xBD"};
  EXPECT_EQ(generate(model, tokenizer_.get(), r).reason, StopReason::kStopString);
}

TEST_F(GenerateScript, TheContextIsNotTheSameAsTheAskedLength) {
  for (const int64_t asked : {0, 12, 500}) {  // --ctx; the model's own is 20
    const int64_t context = asked == 12 ? 12 : 20;
    GenerateRequest r = request(5, 100);
    r.ignore_eos = true;
    r.context = asked;
    ScriptedModel model = saying("x", 5, 20);
    const GenerateResult full = generate(model, nullptr, r);
    EXPECT_EQ(full.reason, StopReason::kContextFull) << asked;
    EXPECT_EQ(static_cast<int64_t>(full.tokens.size()), context - 5);
    EXPECT_EQ(model.capacity, context);
    r.max_new_tokens = context - 5;  // just as long as there is room
    EXPECT_EQ(generate(model, nullptr, r).reason, StopReason::kLength) << asked;
    r.max_new_tokens = context - 6;
    EXPECT_EQ(generate(model, nullptr, r).reason, StopReason::kLength) << asked;
  }
}

TEST_F(GenerateScript, APromptAsLongAsTheContextLeavesNoRoomForAnAnswer) {
  const auto code = [&](size_t prompt, int64_t context, int64_t n) {
    ScriptedModel model = saying("x", prompt, 20);
    GenerateRequest r = request(prompt, n);
    r.context = context;
    try {
      generate(model, nullptr, r);
      return 0;
    } catch (const Error& error) {
      return static_cast<int>(error.code());
    }
  };
  EXPECT_EQ(code(20, 0, 1), 2);
  EXPECT_EQ(code(19, 0, 1), 0);
  EXPECT_EQ(code(8, 8, 1), 2);
  EXPECT_EQ(code(7, 8, 1), 0);
  EXPECT_EQ(code(8, 8, 0), 0) << "no answer was asked for";
  EXPECT_EQ(code(9, 8, 0), 2);
}

TEST_F(GenerateScript, NoStopTokenIsChosenBeforeMinNewTokens) {
  for (const int64_t least : {0, 1, 3, 5}) {
    // Likes both stop tokens best, then y.
    ScriptedModel model(kVocab, 100, [](const std::vector<int32_t>&) {
      std::vector<float> logits(kVocab, 0.0f);
      logits[testing::kEndOfText] = 9.0f;
      logits[testing::kImEnd] = 8.0f;
      logits['y'] = 7.0f;
      return logits;
    });
    GenerateRequest r = request(1, 5);
    r.min_new_tokens = least;
    const GenerateResult result = generate(model, nullptr, r);
    EXPECT_EQ(result.tokens, std::vector<int32_t>(static_cast<size_t>(least), 'y'));
    EXPECT_EQ(result.reason, least == 5 ? StopReason::kLength : StopReason::kStopToken);
    r.ignore_eos = true;
    EXPECT_EQ(generate(model, nullptr, r).tokens[0], testing::kEndOfText) << "eos is a token then";
  }
  GenerateRequest impossible = request(1, 4);
  impossible.min_new_tokens = 5;
  ScriptedModel model = saying("x", 1);
  EXPECT_THROW(generate(model, nullptr, impossible), Error);
}

TEST_F(GenerateScript, NoStopStringEndsWithinMinNewTokens) {
  const auto text = [&](int64_t least, const std::vector<std::string>& stops) {
    ScriptedModel model = saying("ab.cd.ef", 1);
    GenerateRequest r = request(1, 20);
    r.min_new_tokens = least;
    r.stop_strings = stops;
    return generate(model, tokenizer_.get(), r).text;
  };
  EXPECT_EQ(text(0, {"."}), "ab");
  EXPECT_EQ(text(2, {"."}), "ab");
  EXPECT_EQ(text(3, {"."}), "ab.cd");
  EXPECT_EQ(text(6, {"."}), "ab.cd.ef");
  EXPECT_EQ(text(3, {".c"}), "ab") << "it begins in the first tokens and ends after them";
  EXPECT_EQ(text(4, {".c", "b.cd"}), "a");
  EXPECT_EQ(text(5, {".c", "b.cd", "f"}), "ab.cd.e");
}

TEST_F(GenerateScript, BiasReachesTheSampler) {
  ScriptedModel model = saying("ok", 1);
  GenerateRequest r = request(1, 4);
  r.sampling.logit_bias = {{'z', 60.0f}};
  EXPECT_EQ(generate(model, tokenizer_.get(), r).text, "zzzz");
  r.sampling.logit_bias = {{static_cast<int32_t>(kVocab), 1.0f}};
  EXPECT_THROW(generate(model, tokenizer_.get(), r), Error);
}

TEST_F(GenerateScript, CancelIsLookedAtBeforeEveryForwardPass) {
  std::atomic<bool> cancel = false;
  ScriptedModel model(kVocab, 1000, [&](const std::vector<int32_t>& tokens) {
    if (tokens.size() == 12) cancel = true;
    return only('x', kVocab);
  });
  GenerateRequest r = request(8, 100);
  r.prefill_chunk = 2;
  r.cancel = &cancel;
  const GenerateResult result = generate(model, tokenizer_.get(), r);
  EXPECT_EQ(result.reason, StopReason::kCancelled);
  EXPECT_EQ(result.text, "xxxxx") << "what was seen before it stays";
  EXPECT_EQ(model.seen.size(), 12u);
  model.steps.clear();
  const GenerateResult none = generate(model, tokenizer_.get(), r);  // during the prompt
  EXPECT_EQ(none.reason, StopReason::kCancelled);
  EXPECT_TRUE(none.tokens.empty());
  EXPECT_TRUE(model.steps.empty());
}

TEST_F(GenerateScript, LogitsThatAreNotFiniteStopItNamingTheToken) {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (const size_t at : {4u, 6u}) {  // the prompt's own logits; the third token's
      ScriptedModel model(kVocab, 100, [=](const std::vector<int32_t>& tokens) {
        std::vector<float> logits = only('x', kVocab);
        if (tokens.size() == at) logits[7] = bad;
        return logits;
      });
      try {
        generate(model, nullptr, request(4, 10));
        FAIL() << "it went on";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kBadInput);
        const std::string expected = "token " + std::to_string(at - 1) + ", logit 7 of lm_head";
        EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
      }
    }
  }
}

TEST(PerplexityScript, LogitsThatAreNotFiniteStopItNamingRowAndToken) {
  for (const int64_t chunk : {2, 512}) {
    ScriptedModel model(kVocab, 100, [](const std::vector<int32_t>& tokens) {
      std::vector<float> logits(kVocab, 0.0f);
      if (tokens.size() == 4 && tokens[0] == 9) logits[200] = std::nanf("");
      return logits;
    });
    const std::vector<std::vector<int32_t>> good = {{1, 2, 3, 4, 5, 6}, {9, 1, 1, 1}};
    EXPECT_NEAR(perplexity(model, good, chunk).perplexity, static_cast<double>(kVocab), 1e-9)
        << "the last token of a row predicts nothing";
    try {
      perplexity(model, {good[0], {9, 1, 1, 1, 1}}, chunk);
      FAIL() << "it was scored";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      EXPECT_NE(std::string(error.what()).find("row 1, token 3"), std::string::npos)
          << error.what();
    }
  }
}

TEST(PerplexityScript, OneThatOverflowsIsAnErrorAndExtremeLogitsAreNot) {
  // Finite logits further apart than float32 reaches: the difference is taken in float64.
  const auto model_with = [](float low) {
    return ScriptedModel(kVocab, 100, [=](const std::vector<int32_t>&) {
      std::vector<float> logits(kVocab, low);
      logits[0] = -low;
      return logits;
    });
  };
  ScriptedModel wide = model_with(-3e38f);
  EXPECT_THROW(perplexity(wide, {{1, 2}}), Error);
  EXPECT_DOUBLE_EQ(perplexity(wide, {{1, 0}}).perplexity, 1.0);
  ScriptedModel near = model_with(-100.0f);
  EXPECT_NEAR(perplexity(near, {{1, 2}}).mean_log_likelihood, -200.0, 1e-9);
}

TEST(Finite, TheFirstBadValueIsFoundWhereverItIs) {
  for (const size_t n : {1u, 15u, 16u, 17u, 1000u}) {
    std::vector<float> values(n, std::numeric_limits<float>::max());
    EXPECT_FALSE(first_not_finite(values));
    for (const size_t at : {size_t{0}, n / 2, n - 1}) {
      std::vector<float> broken = values;
      broken[at] = -std::numeric_limits<float>::infinity();
      broken[n - 1] = std::nanf("");
      EXPECT_EQ(first_not_finite(broken), at);
    }
  }
  EXPECT_FALSE(first_not_finite({}));
}

}  // namespace
}  // namespace moe4
