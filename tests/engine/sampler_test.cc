// Sampling against probabilities worked out by hand and by a float64 reference.
#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"

namespace moe4 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One draw; the history counts as generated.
int32_t sample(const std::vector<float>& logits, const std::vector<int32_t>& history,
               const SamplingParams& params, std::mt19937_64& rng) {
  return Sampler().sample(logits, {.tokens = history}, params, rng);
}

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
      EXPECT_NE(std::string(error.what()).find("logit 3 is nan"), std::string::npos);
    }
  }
}

TEST(Sampler, ParametersOutOfRangeAreUsageErrors) {
  std::mt19937_64 rng(0);
  for (const SamplingParams& params :
       {SamplingParams{.temperature = -1.0f}, SamplingParams{.temperature = 1.0f, .top_k = -1},
        SamplingParams{.temperature = 1.0f, .top_p = -0.1f},
        SamplingParams{.temperature = kInfinity}, SamplingParams{.repetition_penalty = kInfinity},
        SamplingParams{.presence_penalty = std::numeric_limits<float>::quiet_NaN()},
        SamplingParams{.frequency_penalty = kInfinity}, SamplingParams{.logit_bias = {{5, 1.0f}}},
        SamplingParams{.logit_bias = {{-1, 1.0f}}}, SamplingParams{.logit_bias = {{0, kInfinity}}},
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

// The distribution in float64 from first principles: every step on the whole vocabulary, nothing
// sorted but where the definition says so.
std::map<int32_t, double> reference(const std::vector<float>& logits,
                                    const SamplingHistory& history, const SamplingParams& p) {
  const size_t n = logits.size();
  std::vector<double> x(logits.begin(), logits.end());
  for (const int32_t id : history.forbidden) x[id] = -INFINITY;
  for (const LogitBias& entry : p.logit_bias) x[entry.id] += static_cast<double>(entry.bias);
  for (size_t id = 0; id < n; ++id) {
    int in_all = 0, generated = 0;
    for (size_t i = 0; i < history.tokens.size(); ++i) {
      if (history.tokens[i] != static_cast<int32_t>(id)) continue;
      ++in_all;
      generated += i >= history.prompt_tokens;
    }
    const double penalty = p.repetition_penalty;
    if (in_all > 0) x[id] = x[id] < 0 ? x[id] * penalty : x[id] / penalty;
    x[id] -= static_cast<double>(p.frequency_penalty) * generated;
    if (generated > 0) x[id] -= static_cast<double>(p.presence_penalty);
  }
  const double top = *std::max_element(x.begin(), x.end());
  std::vector<double> w(n);
  for (size_t i = 0; i < n; ++i) w[i] = std::exp((x[i] - top) / static_cast<double>(p.temperature));
  for (double& weight : w) weight = weight < static_cast<double>(p.min_p) ? 0 : weight;
  if (p.top_k > 0 && p.top_k < static_cast<int64_t>(n)) {
    std::vector<double> sorted = w;
    std::sort(sorted.rbegin(), sorted.rend());
    for (double& weight : w) weight = weight < sorted[p.top_k - 1] ? 0 : weight;
  }
  double total = 0;
  for (const double weight : w) total += weight;
  std::vector<double> kept(n, 0);
  for (size_t i = 0; i < n; ++i) {
    double before = 0;  // mass of what comes first: larger, or equal with a lower id
    for (size_t j = 0; j < n; ++j) before += w[j] > w[i] || (w[j] == w[i] && j < i) ? w[j] : 0;
    if (p.top_p >= 1 || before == 0 || before < static_cast<double>(p.top_p) * total)
      kept[i] = w[i];
  }
  total = 0;
  for (const double weight : kept) total += weight;
  std::map<int32_t, double> result;
  for (size_t i = 0; i < n; ++i) {
    if (kept[i] > 0) result[static_cast<int32_t>(i)] = kept[i] / total;
  }
  return result;
}

// Settings one by one and together; histories with repetitions, some in the prompt only.
TEST(SamplerDistribution, IsTheFloat64ReferenceForEverySettingAndTheirCombinations) {
  std::mt19937 rng(3);
  const auto uniform = [&] { return static_cast<float>(rng() % 10000) / 10000.0f; };
  int cases = 0;
  for (int round = 0; round < 400; ++round) {
    std::vector<float> logits(40);
    for (float& logit : logits) logit = 8 * uniform() - 4;
    if (round % 3 == 0) logits[7] = logits[30] = logits[12];  // ties
    if (round % 5 == 0) logits[3] = -kInfinity;
    std::vector<int32_t> tokens(12);
    for (int32_t& id : tokens) id = static_cast<int32_t>(rng() % 9);
    const std::vector<int32_t> stops = {5, 39};
    const SamplingHistory history{
        .tokens = tokens,
        .prompt_tokens = rng() % 12,
        .forbidden = round % 4 == 0 ? std::span(stops) : std::span<const int32_t>()};
    SamplingParams params{.temperature = 0.1f + 2 * uniform()};
    if (round & 1) params.repetition_penalty = 0.5f + uniform();
    if (round & 2) params.presence_penalty = 4 * uniform() - 2;
    if (round & 4) params.frequency_penalty = 4 * uniform() - 2;
    if (round & 8) params.logit_bias = {{4, 3.0f}, {20, -100.0f}, {39, 5.0f}};
    if (round & 16) params.top_k = 1 + static_cast<int64_t>(rng() % 45);
    if (round & 32) params.top_p = uniform();
    if (round & 64) params.min_p = uniform() / 4;
    const auto expected = reference(logits, history, params);
    Sampler sampler;
    const auto found = sampler.distribution(logits, history, params);
    // Weights are integers: what is below 2^-44 of the largest is none.
    const auto is_drawn = [&](const auto& entry) { return entry.second > 0x1p-44; };
    ASSERT_GE(found.size(), std::count_if(expected.begin(), expected.end(), is_drawn)) << round;
    int32_t last = -1;
    for (const TokenProbability& entry : found) {
      EXPECT_GT(entry.id, last);
      last = entry.id;
      ASSERT_TRUE(expected.contains(entry.id)) << round << " token " << entry.id;
      EXPECT_NEAR(entry.probability, expected.at(entry.id), 2e-6) << round << " " << entry.id;
    }
    ++cases;
  }
  EXPECT_EQ(cases, 400);
}

TEST(SamplerDistribution, WorkingMemoryOfOneCallDoesNotReachTheNext) {
  const std::vector<float> logits = {1.0f, 1.0f, 1.0f};
  const std::vector<int32_t> history = {0, 0};
  Sampler sampler;
  const SamplingParams params{.temperature = 1.0f, .frequency_penalty = 1.0f};
  const double first = sampler.distribution(logits, {.tokens = history}, params)[0].probability;
  EXPECT_EQ(sampler.distribution(logits, {.tokens = history}, params)[0].probability, first);
  EXPECT_NEAR(sampler.distribution(logits, {}, params)[0].probability, 1.0 / 3, 1e-12);
}

TEST(SamplerDistribution, DrawIsTheInverseOfTheCumulativeDistribution) {
  const std::vector<SampleCandidate> candidates = {{250, 0.0f, 2}, {500, 0.0f, 5}, {250, 0.0f, 9}};
  std::map<int32_t, int> counts;
  constexpr uint64_t kGrid = 1000, kStep = std::numeric_limits<uint64_t>::max() / kGrid;
  for (uint64_t i = 0; i < kGrid; ++i) ++counts[draw(candidates, i * kStep + kStep / 2)];
  EXPECT_EQ(counts, (std::map<int32_t, int>{{2, 250}, {5, 500}, {9, 250}}));
  EXPECT_EQ(draw(candidates, 0), 2);
  EXPECT_EQ(draw(candidates, (uint64_t{1} << 62) - 1), 2);
  EXPECT_EQ(draw(candidates, uint64_t{1} << 62), 5);
  EXPECT_EQ(draw(candidates, std::numeric_limits<uint64_t>::max()), 9);
}

TEST(SamplerDistribution, SampleDrawsFromItWithTheNextNumberOfTheGenerator) {
  std::mt19937_64 a(9), b(9);
  Sampler sampler;
  const SamplingParams params{.temperature = 0.8f, .top_k = 4};
  for (int i = 0; i < 1000; ++i) {
    double u = static_cast<double>(b()) * 0x1p-64;
    int32_t expected = -1;
    for (const TokenProbability& entry : sampler.distribution(kLogits, {}, params)) {
      if (u >= 0) expected = entry.id;
      u -= entry.probability;
    }
    EXPECT_EQ(sampler.sample(kLogits, {}, params, a), expected);
  }
}

TEST(Sampler, AGreedyChoiceSeesBiasPenaltiesAndForbiddenTokens) {
  const std::vector<float> logits = {3.0f, 2.5f, 2.0f, 1.0f};
  std::mt19937_64 rng(0);
  const std::vector<int32_t> once = {0}, twice = {0, 1, 0}, stop = {0};
  const auto greedy = [&](const SamplingHistory& history, const SamplingParams& params) {
    return Sampler().sample(logits, history, params, rng);
  };
  EXPECT_EQ(greedy({}, {}), 0);
  EXPECT_EQ(greedy({.forbidden = stop}, {}), 1);
  EXPECT_EQ(greedy({}, {.logit_bias = {{3, 2.5f}}}), 3);
  EXPECT_EQ(greedy({}, {.logit_bias = {{0, -100.0f}}}), 1);
  EXPECT_EQ(greedy({.tokens = once}, {.presence_penalty = 0.6f}), 1);
  EXPECT_EQ(greedy({.tokens = once, .prompt_tokens = 1}, {.presence_penalty = 0.6f}), 0);
  EXPECT_EQ(greedy({.tokens = once, .prompt_tokens = 1}, {.frequency_penalty = 2.0f}), 0);
  EXPECT_EQ(greedy({.tokens = once, .prompt_tokens = 1}, {.repetition_penalty = 2.0f}), 1);
  // 3 - 2 * 0.9 = 1.2, 2.5 - 0.9 = 1.6, 2.
  EXPECT_EQ(greedy({.tokens = twice}, {.frequency_penalty = 0.9f}), 2);
  // A forbidden token stays so whatever its bias.
  EXPECT_EQ(greedy({.forbidden = stop}, {.logit_bias = {{0, 100.0f}}}), 1);
}

TEST(Sampler, SettingsOutOfRangeAreNamedWithTheirValueAndWhatIsExpected) {
  const auto error_of = [](const SamplingParams& params) -> std::string {
    try {
      check_sampling_params(params, 8);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(error_of({.temperature = -0.5f}),
            "temperature is -0.5: expected a number from 0 (greedy) up");
  EXPECT_EQ(error_of({.temperature = kInfinity}),
            "temperature is inf: expected a number from 0 (greedy) up");
  EXPECT_EQ(error_of({.top_k = -1}), "top_k is -1: expected 0 (off) or a positive number");
  EXPECT_EQ(error_of({.top_p = 1.5f}), "top_p is 1.5: expected 0 to 1 (off)");
  EXPECT_EQ(error_of({.min_p = -0.25f}), "min_p is -0.25: expected 0 (off) to 1");
  EXPECT_EQ(error_of({.repetition_penalty = 0.0f}),
            "repetition_penalty is 0: expected a positive number, 1 is off");
  EXPECT_EQ(error_of({.presence_penalty = -kInfinity}),
            "presence_penalty is -inf: expected a number, 0 is off");
  EXPECT_EQ(error_of({.frequency_penalty = kInfinity}),
            "frequency_penalty is inf: expected a number, 0 is off");
  EXPECT_EQ(error_of({.logit_bias = {{8, 1.0f}}}),
            "logit_bias names token 8: expected 0 to 7, the model's vocabulary");
  EXPECT_EQ(error_of({.logit_bias = {{7, kInfinity}}}),
            "logit_bias of token 7 is inf: expected a number");
  // The ends of every range are inside.
  EXPECT_EQ(error_of({.temperature = 0.0f, .top_k = 0, .top_p = 0.0f, .min_p = 0.0f}), "");
  EXPECT_EQ(error_of({.top_p = 1.0f, .min_p = 1.0f, .logit_bias = {{0, 1.0f}, {7, 1.0f}}}), "");
}

TEST(Sampler, MinusInfinityIsNeverChosenAndNothingLeftIsAnError) {
  std::mt19937_64 rng(1);
  const std::vector<float> one = {-kInfinity, -5.0f, -kInfinity};
  const std::vector<float> none(3, -kInfinity);
  const std::vector<float> three(3, 1.0f);
  const std::vector<int32_t> all = {0, 1, 2};
  for (const float temperature : {0.0f, 0.01f, 1.0f, 50.0f}) {
    const SamplingParams params{.temperature = temperature};
    EXPECT_EQ(sample(one, {}, params, rng), 1);
    try {
      sample(none, {}, params, rng);
      FAIL() << "a token came out of nothing";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
    }
    EXPECT_THROW(Sampler().sample(three, {.forbidden = all}, params, rng), Error);
  }
}

TEST(Sampler, PlusInfinityIsAnError) {
  std::mt19937_64 rng(0);
  std::vector<float> logits = kLogits;
  logits[2] = kInfinity;
  for (const float temperature : {0.0f, 1.0f}) {
    try {
      sample(logits, {}, {.temperature = temperature}, rng);
      FAIL() << "an infinity was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      EXPECT_NE(std::string(error.what()).find("logit 2 is inf"), std::string::npos);
    }
  }
}

TEST(Sampler, ExtremeLogitsAndTemperaturesStayNumbers) {
  const float huge = std::numeric_limits<float>::max();
  const std::vector<float> logits = {huge, huge, -huge, 0.0f};
  Sampler sampler;
  for (const float temperature : {1e-38f, 1e-3f, 1.0f, 3e38f}) {
    double total = 0;
    const std::vector<int32_t> history = {0};
    for (const TokenProbability& entry :
         sampler.distribution(logits, {.tokens = history},
                              {.temperature = temperature, .repetition_penalty = 0.01f})) {
      EXPECT_TRUE(std::isfinite(entry.probability));
      total += entry.probability;
    }
    EXPECT_NEAR(total, 1.0, 1e-12) << temperature;
  }
}

// Finite settings whose sums and products are not: bias on a huge logit, a repetition penalty below
// 1 on one, frequency penalties that overflow with either sign.
TEST(Sampler, ExtremeSettingsStayNumbers) {
  const float huge = std::numeric_limits<float>::max();
  const std::vector<float> logits = {huge, 0.5f * huge, -huge, 0.0f};
  const std::vector<int32_t> history = {0, 0, 0, 1};
  for (const SamplingParams& params :
       {SamplingParams{.logit_bias = {{0, huge}, {2, -huge}}},
        SamplingParams{.repetition_penalty = 0.01f}, SamplingParams{.frequency_penalty = huge},
        SamplingParams{.frequency_penalty = -huge}, SamplingParams{.presence_penalty = -huge},
        SamplingParams{
            .repetition_penalty = 0.01f, .frequency_penalty = huge, .logit_bias = {{0, huge}}}}) {
    for (const float temperature : {1e-3f, 1.0f}) {
      SamplingParams warm = params;
      warm.temperature = temperature;
      Sampler sampler;
      double total = 0;
      for (const TokenProbability& entry :
           sampler.distribution(logits, {.tokens = history}, warm)) {
        EXPECT_TRUE(std::isfinite(entry.probability));
        total += entry.probability;
      }
      EXPECT_NEAR(total, 1.0, 1e-12);
    }
  }
}

}  // namespace
}  // namespace moe4
