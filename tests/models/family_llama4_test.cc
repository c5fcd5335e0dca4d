// Llama-4: chunks, temperature and the way experts lie, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/changed_family.h"

namespace moe4 {
namespace {

using nlohmann::json;
using testing::EditableCheckpoint;
using testing::error_after;
using testing::expect_missed;
using testing::expect_refused;
using testing::folder_of;
using ::testing::HasSubstr;
using testing::logits_after;
using testing::plain;
using testing::with_text;
using testing::worst;

const std::string kLlama = "llama4-modelopt-nvfp4";

TEST(Llama4, ChunksNormsAndLayersWithoutRotationCount) {
  const std::vector<float> expected = plain(kLlama);
  const json patches[] = {{{"attention_chunk_size", 15}},       {{"attention_chunk_size", 17}},
                          {{"attention_chunk_size", nullptr}},  {{"use_qk_norm", false}},
                          {{"no_rope_layers", {1, 1, 1, 1}}},   {{"no_rope_layer_interval", 3}},
                          {{"rope_scaling", {{"factor", 8.0}}}}};
  for (const json& patch : patches) {
    EXPECT_GT(worst(logits_after(kLlama, with_text(patch)), expected), 1e-3) << patch;
  }
  const json said = {{"no_rope_layers", {1, 1, 1, 0}}, {"moe_layers", nullptr}};
  EXPECT_EQ(logits_after(kLlama, with_text(said)), expected);
}

TEST(Llama4, TheTemperatureStepsOnePositionBeforeItsSpanIsFull) {
  const std::vector<float> expected = plain(kLlama);
  const json patches[] = {{{"attn_scale", 0.2}}, {{"attn_temperature_tuning", false}}};
  for (const json& patch : patches) {
    const std::vector<float> other = logits_after(kLlama, with_text(patch));
    const auto first = static_cast<std::ptrdiff_t>(7 * 320);
    EXPECT_TRUE(std::equal(other.begin(), other.begin() + first, expected.begin())) << patch;
    EXPECT_GT(worst(std::span(other).subspan(first, 320), std::span(expected).subspan(first, 320)),
              1e-4)
        << patch;
  }
}

TEST(Llama4, ExpertsLieTheOtherWayRound) {
  const auto checkpoint = Checkpoint::open(folder_of(kLlama));
  const std::string module = "language_model.model.layers.1.feed_forward.experts";
  const MoeProblem problem = checkpoint->config().moe_problem(1);
  const MoeLayerWeights weights = checkpoint->experts(module, problem);
  const TensorView codes = checkpoint->tensor(module + ".gate_up_proj");
  const TensorView scales = checkpoint->tensor(module + ".down_proj_weight_scale");
  ASSERT_EQ(codes.shape, (std::vector<int64_t>{8, 32, 64}));
  ASSERT_EQ(scales.shape, (std::vector<int64_t>{8, 2, 64}));
  for (const int64_t expert : {0, 5}) {
    const ExpertWeights& one = weights.experts[expert];
    ASSERT_EQ(one.up.weight.shape, (std::vector<int64_t>{32, 32}));
    for (int64_t row = 0; row < 32; ++row) {
      for (int64_t pair = 0; pair < 32; ++pair) {
        const std::byte* stored = codes.row(expert) + pair * 64;
        ASSERT_EQ(one.gate->weight.row(row)[pair], stored[row]);
        ASSERT_EQ(one.up.weight.row(row)[pair], stored[32 + row]);
      }
    }
    for (int64_t row = 0; row < 64; ++row) {
      for (int64_t block = 0; block < 2; ++block) {
        ASSERT_EQ(one.down.scale.row(row)[block], (scales.row(expert) + block * 64)[row]);
      }
    }
  }
  const MoeLayerWeights header = checkpoint->experts_header(module, problem);
  EXPECT_EQ(header.scheme, weights.scheme);
  EXPECT_TRUE(header.memory.empty());
  EXPECT_FALSE(weights.memory.empty());
  EXPECT_THAT(error_after(kLlama,
                          [&](EditableCheckpoint& c) {
                            c.tensors.at(module + ".down_proj").shape = {8, 64, 16};
                          }),
              HasSubstr("[8, 16, 64]"));
}

TEST(Llama4, WhatIsNotComputedIsRefusedByName) {
  const auto text = [](const json& patch) { return json{{"text_config", patch}}; };
  const json types = {"chunked_attention", "chunked_attention", "chunked_attention", "window"};
  expect_refused(kLlama, {{text({{"attention_bias", true}}), "attention_bias"},
                          {text({{"layer_types", types}}), "layer_types"},
                          {text({{"no_rope_layers", {1, 0}}}), "no_rope_layers"},
                          {text({{"no_rope_layers", {1, 1, 1, 2}}}), "no_rope_layers"},
                          {text({{"moe_layers", {3}}}), "layers.1.feed_forward"},
                          {text({{"intermediate_size_mlp", 64}}), "layers.0.feed_forward"},
                          {text({{"rope_scaling", {{"rope_type", "longrope"}}}}), "longrope"}});
  expect_missed(kLlama, {"language_model.model.layers.1.feed_forward.router.weight",
                         "language_model.model.layers.3.feed_forward.shared_expert.up_proj.weight",
                         "language_model.model.layers.3.feed_forward.experts.down_proj"});
}

}  // namespace
}  // namespace moe4
