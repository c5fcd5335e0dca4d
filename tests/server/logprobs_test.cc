// Log-softmax against a plain one, and the order of the likeliest.
#include "server/logprobs.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moe4::server {
namespace {

TEST(Logprobs, AreThoseOfASoftmax) {
  const std::vector<float> logits = {1.0f, -2.0f, 3.5f, 3.5f, 0.0f};
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  const ChosenToken token = token_logprobs(logits, 1, 3);
  EXPECT_NEAR(*token.logprob, -2.0 - std::log(sum), 1e-12);
  ASSERT_EQ(token.top.size(), 3u);
  EXPECT_EQ(token.top[0].id, 2);  // of equals the lower id
  EXPECT_EQ(token.top[1].id, 3);
  EXPECT_EQ(token.top[2].id, 0);
  EXPECT_NEAR(token.top[2].logprob, 1.0 - std::log(sum), 1e-12);
}

TEST(Logprobs, StandLargeLogits) {
  const std::vector<float> logits = {3e38f, 0.0f, -INFINITY};
  EXPECT_EQ(*token_logprobs(logits, 0, 0).logprob, 0.0);
  EXPECT_TRUE(token_logprobs(logits, 0, 0).top.empty());
  EXPECT_EQ(*token_logprobs(logits, 2, 0).logprob, -INFINITY);
}

TEST(Logprobs, HaveNoMoreThanThereAre) {
  const std::vector<float> logits = {0.0f, 1.0f};
  EXPECT_EQ(token_logprobs(logits, 0, 20).top.size(), 2u);
}

}  // namespace
}  // namespace moe4::server
