// Families of which a small checkpoint with goldens of transformers lies in tests/data
// (scripts/make_family_goldens.py): float32 logits and the greedy text. Layer by layer, in pieces
// and in batches they are tested with all others: dialect_test, decode_test, batch_test; what their
// configurations may say: family_*_test.
#include <gtest/gtest.h>

#include <algorithm>

#include "support/changed_family.h"
#include "support/sequence.h"

namespace moe4 {
namespace {

using testing::folder_of;
using testing::Golden;
using testing::golden_of;
using testing::load_float32;
using testing::logits_of;
using testing::LogitsFor;
using testing::Sequence;
using testing::worst;

constexpr const char* kFolders[] = {"gemma4-modelopt-nvfp4",        "glm4_moe-modelopt-nvfp4",
                                    "glm4_moe_lite-modelopt-nvfp4", "minimax_m2-modelopt-nvfp4",
                                    "qwen3_next-modelopt-nvfp4",    "qwen3_vl_moe-modelopt-nvfp4",
                                    "mixtral-modelopt-nvfp4",       "hy_v3-ct-nvfp4",
                                    "ernie4_5_moe-modelopt-w4a16",  "mistral4-ct-nvfp4",
                                    "laguna-modelopt-nvfp4",        "minimax_m2-ct-nvfp4",
                                    "llama4-modelopt-nvfp4",        "mimo_v2_flash-modelopt-nvfp4",
                                    "step3p7-modelopt-nvfp4",       "deepseek_v32-modelopt-nvfp4",
                                    "glm_moe_dsa-modelopt-nvfp4",   "minimax_m3-modelopt-mixed",
                                    "deepseek_v4-modelopt-fp8",     "deepseek_v4-mxfp4"};

class Families : public ::testing::TestWithParam<const char*> {};

TEST_P(Families, Float32LogitsAreThoseOfTransformers) {
  const Golden golden = golden_of(GetParam());
  const std::vector<int32_t> ids = golden.ints("input_ids");
  ASSERT_EQ(ids.size(), 40u);
  const double error = worst(logits_of(folder_of(GetParam()), ids), golden.floats("logits"));
  RecordProperty("logits_error", std::to_string(error));
  EXPECT_LT(error, 1e-5);
}

TEST_P(Families, GreedyTextIsThatOfTransformers) {
  ThreadPool threads(2);
  const Golden golden = golden_of(GetParam());
  const auto model = load_float32(folder_of(GetParam()), threads);
  const std::vector<int32_t> ids = golden.ints("input_ids"), greedy = golden.ints("greedy");
  ASSERT_EQ(greedy.size(), 16u);
  Sequence sequence(*model, static_cast<int64_t>(ids.size() + greedy.size()));
  std::vector<float> logits;
  sequence.forward(ids, LogitsFor::kLastToken, logits);
  for (const int32_t expected : greedy) {
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    ASSERT_EQ(best, expected);
    sequence.forward({&expected, 1}, LogitsFor::kLastToken, logits);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Families, ::testing::ValuesIn(kFolders), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace moe4
