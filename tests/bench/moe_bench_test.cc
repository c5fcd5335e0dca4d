// Layers of every kind of weights and activation are timed and computed right.
#include "bench/moe_bench.h"

#include <gtest/gtest.h>

#include "ops/experts/cpu/cpu_backend.h"

namespace moe4 {
namespace {

MoePreset small(const ActivationParams& activation) {
  return {.name = "small",
          .problem = {.hidden_size = 192,
                      .intermediate_size = 128,
                      .num_experts = 8,
                      .num_local_experts = 8,
                      .top_k = 2,
                      .activation = activation}};
}

void expect_right(const MoePreset& preset, int64_t weight_bytes) {
  ThreadPool threads(2);
  const CpuBackend cpu;
  const MoeBenchResult result = run_moe_bench(preset,
                                              {.tokens = {1, 5},
                                               .backends = {&cpu},
                                               .precisions = {ActivationPrecision::kBf16},
                                               .seconds_per_row = 0},
                                              threads);
  EXPECT_EQ(result.weight_bytes, weight_bytes);
  ASSERT_EQ(result.rows.size(), 2u);
  for (const MoeBenchRow& row : result.rows) {
    EXPECT_EQ(row.rejection, "");
    EXPECT_GT(row.median_ms, 0);
    EXPECT_GT(row.relative_error, 0);
    EXPECT_LT(row.relative_error, 0.01);
  }
}

constexpr int64_t kWeights = 8 * 192 * 128;  // of one projection

TEST(MoeBench, LayersWithAndWithoutAGate) {
  expect_right(small({}), 3 * (kWeights / 2 + kWeights / 16));
  expect_right(small({.kind = ActivationKind::kRelu2}), 2 * (kWeights / 2 + kWeights / 16));
}

TEST(MoeBench, Mxfp4WithBiases) {
  MoePreset preset = small({.kind = ActivationKind::kSwigluOai, .limit = 7.0f});
  preset.scheme = kMxfp4W4A16;
  preset.has_bias = true;
  expect_right(preset, 3 * (kWeights / 2 + kWeights / 32));
}

}  // namespace
}  // namespace moe4
