// Routers against hand-computed selections and weights.
#include "moe/routing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "support/binary_file.h"

namespace moe4 {
namespace {

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Routed route(const RouterConfig& config, const std::vector<float>& logits) {
  const int64_t tokens = static_cast<int64_t>(logits.size()) / config.num_experts;
  Routed out{std::vector<int32_t>(tokens * config.top_k),
             std::vector<float>(tokens * config.top_k)};
  route_topk(config, logits.data(), tokens, out.ids.data(), out.weights.data());
  return out;
}

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// Logits whose softmax is exactly proportional to the given numbers.
std::vector<float> logs(const std::vector<float>& odds) {
  std::vector<float> logits;
  for (float x : odds) logits.push_back(std::log(x));
  return logits;
}

TEST(Routing, SoftmaxWeightsAreProbabilitiesOverAllExperts) {
  const RouterConfig config{.num_experts = 4, .top_k = 2, .renormalize = false};
  const Routed routed = route(config, logs({1, 4, 2, 3}));
  EXPECT_EQ(routed.ids, (std::vector<int32_t>{1, 3}));
  EXPECT_NEAR(routed.weights[0], 0.4, 1e-6);
  EXPECT_NEAR(routed.weights[1], 0.3, 1e-6);
}

TEST(Routing, RenormalisedWeightsSumToOne) {
  const RouterConfig config{.num_experts = 4, .top_k = 2, .renormalize = true};
  const Routed routed = route(config, logs({1, 4, 2, 3}));
  EXPECT_NEAR(routed.weights[0], 4.0 / 7, 1e-6);
  EXPECT_NEAR(routed.weights[1], 3.0 / 7, 1e-6);
}

TEST(Routing, SoftmaxOverTheSelectedEqualsRenormalisedSoftmax) {
  const std::vector<float> logits = {0.3f, -1.2f, 2.5f, 0.9f, 2.4f};
  const Routed a = route({.num_experts = 5, .top_k = 3, .renormalize = true}, logits);
  const Routed b = route(
      {.scoring = ScoringFunction::kSoftmaxOverSelected, .num_experts = 5, .top_k = 3}, logits);
  EXPECT_EQ(a.ids, b.ids);
  for (int k = 0; k < 3; ++k) EXPECT_NEAR(a.weights[k], b.weights[k], 1e-6);
}

TEST(Routing, ScalingIsAppliedOnceAfterNormalisation) {
  const RouterConfig config{
      .num_experts = 4, .top_k = 2, .renormalize = true, .scaling_factor = 2.5f};
  const Routed routed = route(config, logs({1, 4, 2, 3}));
  EXPECT_NEAR(routed.weights[0] + routed.weights[1], 2.5, 1e-6);
}

TEST(Routing, TiesGoToTheLowestId) {
  const RouterConfig config{.num_experts = 6, .top_k = 3};
  EXPECT_EQ(route(config, {1, 2, 2, 2, 2, 1}).ids, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(route(config, {0, 0, 0, 0, 0, 0}).ids, (std::vector<int32_t>{0, 1, 2}));
}

TEST(Routing, OrderSurvivesProbabilitiesThatUnderflow) {
  const RouterConfig config{.num_experts = 4, .top_k = 4};
  EXPECT_EQ(route(config, {0, -300, -200, -250}).ids, (std::vector<int32_t>{0, 2, 3, 1}));
}

TEST(Routing, SigmoidBiasDecidesTheSelectionButNotTheWeights) {
  const std::vector<float> bias = {0, 0, 0, 10};
  const RouterConfig config{.scoring = ScoringFunction::kSigmoid,
                            .num_experts = 4,
                            .top_k = 2,
                            .renormalize = false,
                            .correction_bias = bias};
  const Routed routed = route(config, {0.5f, 1.0f, -1.0f, -2.0f});
  EXPECT_EQ(routed.ids, (std::vector<int32_t>{3, 1}));
  EXPECT_NEAR(routed.weights[0], sigmoid(-2.0f), 1e-6);
  EXPECT_NEAR(routed.weights[1], sigmoid(1.0f), 1e-6);
}

TEST(Routing, SigmoidWeightsRenormaliseOverTheSelected) {
  const RouterConfig config{
      .scoring = ScoringFunction::kSigmoid, .num_experts = 3, .top_k = 2, .renormalize = true};
  const Routed routed = route(config, {1.0f, -1.0f, 0.0f});
  EXPECT_EQ(routed.ids, (std::vector<int32_t>{0, 2}));
  const float sum = sigmoid(1.0f) + 0.5f;
  EXPECT_NEAR(routed.weights[0], sigmoid(1.0f) / sum, 1e-6);
  EXPECT_NEAR(routed.weights[1], 0.5f / sum, 1e-6);
}

TEST(Routing, RootsOfSoftplusAreScores) {
  const std::vector<float> bias = {0, 0, 0, 10};
  const RouterConfig config{.scoring = ScoringFunction::kSqrtSoftplus,
                            .num_experts = 4,
                            .top_k = 2,
                            .scaling_factor = 1.5f,
                            .correction_bias = bias};
  const Routed routed = route(config, {0.5f, 90.0f, -1.0f, -2.0f});
  EXPECT_EQ(routed.ids, (std::vector<int32_t>{3, 1}));
  const double last = std::sqrt(std::log1p(std::exp(-2.0))), second = std::sqrt(90.0);
  EXPECT_NEAR(routed.weights[0], 1.5 * last / (last + second), 1e-6);
  EXPECT_NEAR(routed.weights[1], 1.5 * second / (last + second), 1e-6);
}

TEST(Routing, GivenExpertsAreOnlyWeighed) {
  const RouterConfig config{.scoring = ScoringFunction::kSigmoid,
                            .num_experts = 4,
                            .top_k = 2,
                            .by_token = true,
                            .shared_experts = 1};
  const std::vector<float> logits = {2.0f, -1.0f, 5.0f, 1.0f};
  const int32_t chosen[] = {3, 1};
  int32_t ids[3] = {};
  float weights[3] = {};
  weigh_chosen(config, logits.data(), chosen, ids, weights);
  EXPECT_EQ(std::vector<int32_t>(ids, ids + 3), (std::vector<int32_t>{3, 1, 4}));
  const float sum = sigmoid(1.0f) + sigmoid(-1.0f);
  EXPECT_NEAR(weights[0], sigmoid(1.0f) / sum, 1e-6);
  EXPECT_NEAR(weights[1], sigmoid(-1.0f) / sum, 1e-6);
  EXPECT_EQ(weights[2], 1.0f);
  const std::vector<float> nan = {2.0f, -1.0f, NAN, 1.0f};
  weigh_chosen(config, nan.data(), chosen, ids, weights);
  EXPECT_EQ(ids[0], 0);
  EXPECT_TRUE(std::isnan(weights[0]));
  EXPECT_EQ(ids[1], -1);
}

TEST(Routing, AGroupScoresByItsTwoBestAndOthersLeaveTheRace) {
  // Group 0 has the single best expert, group 1 the best pair.
  const RouterConfig config{.scoring = ScoringFunction::kSigmoid,
                            .num_experts = 6,
                            .top_k = 2,
                            .renormalize = false,
                            .num_groups = 2,
                            .topk_groups = 1};
  EXPECT_EQ(route(config, {4.0f, -4.0f, -4.0f, 2.0f, 1.9f, -4.0f}).ids,
            (std::vector<int32_t>{3, 4}));
}

TEST(Routing, GroupsAreRankedByBiasedScores) {
  const std::vector<float> bias = {0, 0, 0.5f, 0.5f};
  const RouterConfig config{.scoring = ScoringFunction::kSigmoid,
                            .num_experts = 4,
                            .top_k = 1,
                            .renormalize = false,
                            .num_groups = 2,
                            .topk_groups = 1,
                            .correction_bias = bias};
  EXPECT_EQ(route(config, {1.0f, 1.0f, 0.0f, 0.5f}).ids, (std::vector<int32_t>{3}));
}

TEST(Routing, ExpertsOfOtherGroupsLoseAgainstNegativeScores) {
  // With biases of -3 every biased score is negative, and one that is out must not count as 0.
  const std::vector<float> bias(6, -3.0f);
  const RouterConfig config{.scoring = ScoringFunction::kSigmoid,
                            .num_experts = 6,
                            .top_k = 2,
                            .renormalize = false,
                            .num_groups = 3,
                            .topk_groups = 1,
                            .correction_bias = bias};
  const Routed r = route(config, {-1.0f, -2.0f, 1.0f, 2.0f, -3.0f, -4.0f});
  EXPECT_EQ(r.ids, (std::vector<int32_t>{3, 2}));
  EXPECT_FLOAT_EQ(r.weights[0], sigmoid(2.0f));
}

TEST(Routing, ANanLogitGivesItsTokenOnlyAWeightOfNan) {
  const RouterConfig config{.num_experts = 3, .top_k = 2};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Routed routed = route(config, {1, nan, 2, 3, 2, 1});
  EXPECT_EQ(routed.ids, (std::vector<int32_t>{0, -1, 0, 1}));
  EXPECT_TRUE(std::isnan(routed.weights[0]));
  EXPECT_EQ(routed.weights[1], 0.0f);
  EXPECT_NEAR(routed.weights[2] + routed.weights[3], 1.0f, 1e-6);
}

TEST(Routing, TopKMayEqualTheNumberOfExperts) {
  const RouterConfig config{.num_experts = 3, .top_k = 3};
  const Routed routed = route(config, {1, 3, 2});
  EXPECT_EQ(routed.ids, (std::vector<int32_t>{1, 2, 0}));
  EXPECT_NEAR(std::accumulate(routed.weights.begin(), routed.weights.end(), 0.0f), 1.0f, 1e-6);
}

TEST(Routing, NoTokensIsFine) {
  route_topk({.num_experts = 3, .top_k = 2}, nullptr, 0, nullptr, nullptr);
}

TEST(Routing, RandomLogitsRouteAsNumpySays) {
  // Records: i32 variant, 64 logits, 64 correction biases, the expected 6 ids and 6 weights; see
  // scripts/make_routing_goldens.py.
  const auto golden = testing::read_bytes(std::string(MOE4_TEST_DATA) + "/moe/routing.bin");
  constexpr int kExperts = 64, kTopK = 6;
  ASSERT_EQ(golden.size() % (4 + 4 * (2 * kExperts + 2 * kTopK)), 0u);
  for (testing::ByteReader reader(golden); !reader.done();) {
    const int variant = reader.take<int32_t>();
    std::vector<float> logits(kExperts), bias(kExperts);
    for (float& x : logits) x = reader.take<float>();
    for (float& x : bias) x = reader.take<float>();
    RouterConfig config{.num_experts = kExperts, .top_k = kTopK};
    if (variant == 0) config.renormalize = false;
    if (variant == 2) config.scoring = ScoringFunction::kSoftmaxOverSelected;
    if (variant >= 3) {
      config.scoring = ScoringFunction::kSigmoid;
      config.correction_bias = bias;
      config.scaling_factor = 2.5f;
    }
    if (variant == 4) {
      config.num_groups = 8;
      config.topk_groups = 3;
    }
    const Routed routed = route(config, logits);
    for (int32_t id : routed.ids) ASSERT_EQ(id, reader.take<int32_t>()) << variant;
    for (float weight : routed.weights) ASSERT_NEAR(weight, reader.take<float>(), 2e-6) << variant;
  }
}

}  // namespace
}  // namespace moe4
