// Sampling against probabilities worked out by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "base/error.h"
#include "engine/generator.h"

namespace moe4 {
namespace {

// Logits whose softmax is 0.5, 0.25, 0.125, 0.0625, 0.0625, in another order of ids.
const std::vector<float> kLogits = {std::log(0.125f), std::log(0.5f), std::log(0.0625f),
                                    std::log(0.25f), std::log(0.0625f)};

std::map<int32_t, double> frequencies(const std::vector<float>& logits,
                                      const SamplingParams& params,
                                      const std::vector<int32_t>& history = {}) {
  constexpr int kDraws = 40000;
  std::mt19937_64 rng(params.seed);
  std::map<int32_t, double> counts;
  for (int i = 0; i < kDraws; ++i) counts[sample(logits, history, params, rng)] += 1.0 / kDraws;
  return counts;
}

// Five standard deviations of a frequency of 40000 draws are at most 0.0125.
void expect_distribution(const std::map<int32_t, double>& actual,
                         const std::map<int32_t, double>& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  for (const auto& [id, p] : expected) {
    ASSERT_TRUE(actual.contains(id)) << "token " << id << " never came";
    EXPECT_NEAR(actual.at(id), p, 0.0125) << "token " << id;
  }
}

TEST(Sampler, TemperatureOneDrawsTheSoftmax) {
  expect_distribution(frequencies(kLogits, {.temperature = 1.0f}),
                      {{1, 0.5}, {3, 0.25}, {0, 0.125}, {2, 0.0625}, {4, 0.0625}});
}

TEST(Sampler, TemperatureHalfSquaresTheOdds) {
  // Squares: 1/4, 1/16, 1/64, 1/256, 1/256; their sum is 86/256.
  expect_distribution(
      frequencies(kLogits, {.temperature = 0.5f}),
      {{1, 64.0 / 86}, {3, 16.0 / 86}, {0, 4.0 / 86}, {2, 1.0 / 86}, {4, 1.0 / 86}});
}

TEST(Sampler, TopKKeepsTheBestAndRenormalises) {
  expect_distribution(frequencies(kLogits, {.temperature = 1.0f, .top_k = 2}),
                      {{1, 2.0 / 3}, {3, 1.0 / 3}});
}

TEST(Sampler, TopKKeepsTiesWithTheLastOne) {
  expect_distribution(frequencies(kLogits, {.temperature = 1.0f, .top_k = 4}),
                      {{1, 0.5}, {3, 0.25}, {0, 0.125}, {2, 0.0625}, {4, 0.0625}});
}

TEST(Sampler, TopPKeepsTheTokenThatCrossesTheLimit) {
  expect_distribution(frequencies(kLogits, {.temperature = 1.0f, .top_p = 0.7f}),
                      {{1, 2.0 / 3}, {3, 1.0 / 3}});
  expect_distribution(frequencies(kLogits, {.temperature = 1.0f, .top_p = 0.8f}),
                      {{1, 4.0 / 7}, {3, 2.0 / 7}, {0, 1.0 / 7}});
  expect_distribution(frequencies(kLogits, {.temperature = 1.0f, .top_p = 1e-6f}), {{1, 1.0}});
}

TEST(Sampler, TopPSeesWhatTopKLeft) {
  // After top-k 2 the probabilities are 2/3 and 1/3: the first alone reaches 0.6.
  expect_distribution(frequencies(kLogits, {.temperature = 1.0f, .top_k = 2, .top_p = 0.6f}),
                      {{1, 1.0}});
}

TEST(Sampler, TopPWorksPastTheSortedHeadOfALargeVocabulary) {
  const std::vector<float> flat(5000, 0.0f);
  std::mt19937_64 rng(7);
  int32_t largest = 0;
  for (int i = 0; i < 500; ++i) {
    largest = std::max(largest, sample(flat, {}, {.temperature = 1.0f, .top_p = 0.5f}, rng));
  }
  // Equal tokens are taken by id: the first half of them.
  EXPECT_LT(largest, 2501);
  EXPECT_GT(largest, 2300);
}

TEST(Sampler, MinPDropsTokensFarBelowTheBest) {
  expect_distribution(frequencies(kLogits, {.temperature = 1.0f, .min_p = 0.2f}),
                      {{1, 4.0 / 7}, {3, 2.0 / 7}, {0, 1.0 / 7}});
}

TEST(Sampler, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogits) {
  const std::vector<float> logits = {2.0f, 1.9f, -1.0f};
  std::mt19937_64 rng(0);
  EXPECT_EQ(sample(logits, {}, {.repetition_penalty = 2.0f}, rng), 0);
  EXPECT_EQ(sample(logits, std::vector<int32_t>{0}, {.repetition_penalty = 2.0f}, rng), 1);
  // Logits become 1, 1.9, -2 however often a token came before.
  const double total = std::exp(1.0) + std::exp(1.9) + std::exp(-2.0);
  expect_distribution(
      frequencies(logits, {.temperature = 1.0f, .repetition_penalty = 2.0f}, {0, 2, 0, 0}),
      {{0, std::exp(1.0) / total}, {1, std::exp(1.9) / total}, {2, std::exp(-2.0) / total}});
}

TEST(Sampler, GreedyTiesGoToTheLowestId) {
  std::mt19937_64 rng(0);
  EXPECT_EQ(sample(std::vector<float>{1.0f, 3.0f, 3.0f, 2.0f}, {}, {}, rng), 1);
}

TEST(Sampler, SameSeedSameTokens) {
  std::mt19937_64 a(42), b(42), c(43);
  int different = 0;
  for (int i = 0; i < 100; ++i) {
    const int32_t token = sample(kLogits, {}, {.temperature = 1.0f}, a);
    EXPECT_EQ(sample(kLogits, {}, {.temperature = 1.0f}, b), token);
    different += sample(kLogits, {}, {.temperature = 1.0f}, c) != token;
  }
  EXPECT_GT(different, 0);
}

TEST(Sampler, NanLogitsAreAnErrorThatSaysSo) {
  std::vector<float> logits = kLogits;
  logits[3] = std::numeric_limits<float>::quiet_NaN();
  std::mt19937_64 rng(0);
  for (float temperature : {0.0f, 1.0f}) {
    try {
      sample(logits, {}, {.temperature = temperature}, rng);
      FAIL() << "a NaN was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      EXPECT_NE(std::string(error.what()).find("logit 3 is not a number"), std::string::npos);
    }
  }
}

TEST(Sampler, ParametersOutOfRangeAreUsageErrors) {
  std::mt19937_64 rng(0);
  for (const SamplingParams& params :
       {SamplingParams{.temperature = -1.0f}, SamplingParams{.temperature = 1.0f, .top_k = -1},
        SamplingParams{.temperature = 1.0f, .top_p = 0.0f},
        SamplingParams{.temperature = 1.0f, .top_p = 1.5f},
        SamplingParams{.temperature = 1.0f, .min_p = 2.0f},
        SamplingParams{.repetition_penalty = 0.0f},
        SamplingParams{.temperature = std::numeric_limits<float>::quiet_NaN()}}) {
    try {
      sample(kLogits, {}, params, rng);
      FAIL() << "parameters out of range were taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
    }
  }
}

}  // namespace
}  // namespace moe4
