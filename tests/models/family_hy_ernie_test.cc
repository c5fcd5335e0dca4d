// Hy3 and Ernie-4.5: correction biases, what files leave out, what is refused.
#include <gtest/gtest.h>

#include "support/changed_family.h"

namespace moe4 {
namespace {

using nlohmann::json;
using testing::EditableCheckpoint;
using testing::expect_missed;
using testing::expect_refused;
using testing::expect_that_bf16_loses;
using testing::logits_after;
using testing::plain;
using testing::with;

// ---- Hy3

const std::string kHy = "hy_v3-ct-nvfp4";

TEST(HyV3, TheCorrectionBiasIsReadAsTheFloat32ThatItIs) {
  expect_that_bf16_loses(kHy, "model.layers.1.mlp.expert_bias", 8);
}

TEST(HyV3, WhatIsNotComputedIsRefusedByName) {
  const json types = {"dense", "sparse", "sparse"};
  const json listed = {{"first_k_dense_replace", nullptr}, {"mlp_layer_types", types}};
  EXPECT_EQ(logits_after(kHy, with(listed)), plain(kHy));
  expect_refused(kHy, {{{{"qk_norm", false}}, "qk_norm"},
                       {{{"attention_bias", true}}, "attention_bias"},
                       {{{"mlp_bias", true}}, "mlp_bias"},
                       {{{"moe_router_enable_expert_bias", false}}, "expert_bias"},
                       {{{"num_shared_experts", 2}}, "shared_mlp"}});
  expect_missed(kHy, {"model.layers.2.mlp.expert_bias"});
}

// ---- Ernie-4.5

const std::string kErnie = "ernie4_5_moe-modelopt-w4a16";

TEST(Ernie45Moe, WhatTheFileLeavesOutIsAsItsMakersHaveIt) {
  ASSERT_FALSE(EditableCheckpoint(kErnie).config.contains("tie_word_embeddings"));
  const std::vector<float> expected = plain(kErnie);
  const json middle = {{"moe_layer_start_index", nullptr},
                       {"moe_layer_interval", nullptr},
                       {"moe_num_shared_experts", nullptr},
                       {"tie_word_embeddings", true}};
  EXPECT_EQ(logits_after(kErnie, with(middle)), expected);
}

TEST(Ernie45Moe, WhatIsNotComputedIsRefusedByName) {
  expect_refused(kErnie, {{{{"use_bias", true}}, "use_bias"},
                          {{{"tie_word_embeddings", false}}, "lm_head"},
                          {{{"moe_layer_end_index", -1}}, "model.layers.3.mlp"},
                          {{{"moe_layer_interval", 2}}, "model.layers.2.mlp"},
                          {{{"moe_num_shared_experts", 1}}, "shared_experts"}});
  expect_missed(kErnie, {"model.layers.1.mlp.moe_statics.e_score_correction_bias"});
}

}  // namespace
}  // namespace moe4
