// Runs of K by shape.
#include "ops/experts/gpu/sum_order.h"

#include <gtest/gtest.h>

namespace moe4::cuda {
namespace {

TEST(SumOrder, NoRunIsEmptyAndTheyCoverK) {
  for (int k_units = 1; k_units <= 200; ++k_units) {
    const int runs = choose_runs(k_units);
    ASSERT_GE(runs, 1);
    ASSERT_LE(runs, 8);
    EXPECT_GE(runs * run_units(k_units, runs), k_units);
    EXPECT_LT((runs - 1) * run_units(k_units, runs), k_units) << k_units << " units";
  }
}

TEST(SumOrder, ShapesOfRealModels) {
  const auto problem = [](int64_t hidden, int64_t width, int64_t top_k) {
    return MoeProblem{.hidden_size = hidden, .intermediate_size = width, .top_k = top_k};
  };
  // Qwen3.6-35B-A3B, Qwen3-30B-A3B: units apart.
  EXPECT_EQ(decode_order(problem(2048, 512, 8)).fc1_runs, 8);
  EXPECT_EQ(decode_order(problem(2048, 512, 8)).fc2_runs, 2);
  EXPECT_EQ(decode_order(problem(2048, 768, 8)).fc2_runs, 3);
  // DeepSeek-V3: generated tokens and prompts have one order, the quick one is another.
  EXPECT_TRUE(decode_order(problem(7168, 2048, 8)).single_chains());
  EXPECT_EQ(quick_order(problem(7168, 2048, 8)).fc1_runs, 4);
  EXPECT_EQ(quick_order(problem(7168, 2048, 8)).fc2_runs, 8);
  // gpt-oss: runs of three.
  EXPECT_EQ(decode_order(problem(2880, 2880, 4)).fc1_runs, 4);
  EXPECT_EQ(decode_order(problem(2880, 2880, 4)).fc2_runs, 4);
}

}  // namespace
}  // namespace moe4::cuda
