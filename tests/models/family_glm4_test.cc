// GLM-4.5 to 4.7 and 4.7-Flash: what their configurations may say, and what is refused.
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
using testing::expect_that_bf16_loses;
using ::testing::HasSubstr;
using testing::logits_after;
using testing::plain;
using testing::with;
using testing::worst;

const std::string kGlm = "glm4_moe-modelopt-nvfp4", kFlash = "glm4_moe_lite-modelopt-nvfp4";

TEST(Glm4Moe, HalfOfEveryHeadIsTurnedUnlessTheFileSaysOtherwise) {
  ASSERT_FALSE(EditableCheckpoint(kGlm).config.contains("partial_rotary_factor"));
  const std::vector<float> expected = plain(kGlm);
  EXPECT_EQ(logits_after(kGlm, with({{"partial_rotary_factor", 0.5}})), expected);
  EXPECT_GT(worst(logits_after(kGlm, with({{"partial_rotary_factor", 1.0}})), expected), 1e-2);
}

TEST(Glm4Moe, TheCorrectionBiasIsReadAsTheFloat32ThatItIs) {
  expect_that_bf16_loses(kGlm, "model.layers.1.mlp.gate.e_score_correction_bias", 16);
}

TEST(Glm4Moe, TheFactorIsOfRoutedExpertsAndOneWhereTheFileHasNone) {
  const std::vector<float> expected = plain(kGlm);
  const std::vector<float> one = logits_after(kGlm, with({{"routed_scaling_factor", 1.0}}));
  EXPECT_GT(worst(one, expected), 1e-2);
  EXPECT_EQ(logits_after(kGlm, with({{"routed_scaling_factor", nullptr}})), one);
}

TEST(Glm4Moe, WhatIsNotComputedIsRefusedByName) {
  expect_refused(kGlm, {{{{"use_qk_norm", false}}, "q_norm"},
                        {{{"attention_bias", false}}, "attention_bias"},
                        {{{"scoring_func", "softmax"}}, "scoring_func"},
                        {{{"topk_method", "greedy"}}, "topk_method"},
                        {{{"sliding_window", 128}}, "sliding_window"},
                        {{{"rope_scaling", {{"rope_type", "longrope"}}}}, "longrope"},
                        {{{"hidden_act", "gelu"}}, "silu"}});
  expect_missed(kGlm, {"model.layers.0.self_attn.k_norm.weight",
                       "model.layers.2.mlp.gate.e_score_correction_bias",
                       "model.layers.1.self_attn.v_proj.bias"});
  EXPECT_THAT(error_after(kGlm,
                          [](EditableCheckpoint& c) {
                            c.add("model.layers.0.self_attn.o_proj.bias", {64},
                                  std::vector<float>(64, 0.5f));
                          }),
              HasSubstr("model.layers.0.self_attn.o_proj"));
}

TEST(Glm4MoeLite, DenseLayersHaveTwoSpellings) {
  ASSERT_TRUE(EditableCheckpoint(kFlash).config.contains("mlp_layer_types"));
  const json first = {{"mlp_layer_types", nullptr}, {"first_k_dense_replace", 1}};
  EXPECT_EQ(logits_after(kFlash, with(first)), plain(kFlash));
}

TEST(Glm4MoeLite, SizesThatLatentAttentionDoesNotHaveChangeNothing) {
  const json sizes = {{"head_dim", 64}, {"num_key_value_heads", 1}};
  EXPECT_EQ(logits_after(kFlash, with(sizes)), plain(kFlash));
}

TEST(Glm4MoeLite, WhatIsNotComputedIsRefusedByName) {
  expect_refused(kFlash, {{{{"rope_interleave", false}}, "rope_interleave"},
                          {{{"mlp_layer_types", {"dense", "sparse", "hash"}}}, "mlp_layer_types"},
                          {{{"q_lora_rank", nullptr}}, "q_proj"},
                          {{{"index_topk", 2048}}, "index_topk"}});
  expect_missed(kFlash, {"model.layers.1.self_attn.q_a_layernorm.weight"});
}

}  // namespace
}  // namespace moe4
