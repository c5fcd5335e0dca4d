// MiniMax-M2 and M3: spellings, blocks, clamps and norms that count, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "models/refusals.h"
#include "numerics/bf16.h"
#include "support/changed_family.h"

namespace moe4 {
namespace {

using nlohmann::json;
using testing::Change;
using testing::EditableCheckpoint;
using testing::error_after;
using testing::expect_missed;
using testing::expect_refused;
using testing::expect_that_bf16_loses;
using testing::folder_of;
using ::testing::HasSubstr;
using testing::logits_after;
using testing::plain;
using testing::with;
using testing::with_text;
using testing::worst;

// ---- MiniMax-M2

const std::string kMinimax = "minimax_m2-modelopt-nvfp4";

TEST(MinimaxM2, TheRotatedPartHasTwoSpellings) {
  const std::vector<float> expected = plain(kMinimax);
  const json part = {{"rotary_dim", nullptr}, {"partial_rotary_factor", 0.5}};
  EXPECT_EQ(logits_after(kMinimax, with(part)), expected);
  EXPECT_GT(worst(logits_after(kMinimax, with({{"rotary_dim", 32}})), expected), 1e-2);
  EXPECT_THAT(error_after(kMinimax, with({{"partial_rotary_factor", 1.0}})),
              HasSubstr("rotary_dim"));
}

TEST(MinimaxM2, WhatIsNotComputedIsRefusedByName) {
  expect_refused(kMinimax, {{{{"use_qk_norm", false}}, "use_qk_norm"},
                            {{{"qk_norm_type", "per_head"}}, "qk_norm_type"},
                            {{{"use_routing_bias", false}}, "use_routing_bias"},
                            {{{"scoring_func", "softmax"}}, "scoring_func"},
                            {{{"attn_type_list", {1, 0}}}, "attn_type_list"},
                            {{{"rotary_dim", 64}}, "rotary_dim"},
                            {{{"layernorm_mlp_beta", 3.5}}, "layernorm_mlp_beta"},
                            {{{"shared_intermediate_size", 32}}, "shared_intermediate_size"},
                            {{{"sliding_window", 8}}, "sliding_window"}});
  expect_missed(kMinimax, {"model.layers.1.block_sparse_moe.e_score_correction_bias",
                           "model.layers.0.self_attn.q_norm.weight"});
  // Weights of one head are too few.
  EXPECT_THAT(error_after(kMinimax,
                          [](EditableCheckpoint& c) {
                            c.add("model.layers.0.self_attn.k_norm.weight", {32},
                                  std::vector<float>(32, 1.0f));
                          }),
              HasSubstr("model.layers.0.self_attn.k_norm.weight"));
}

// ---- MiniMax-M3

const std::string kM3 = "minimax_m3-modelopt-mixed";

Change with_sparse(const json& patch) {
  return with({{"text_config", {{"sparse_attention_config", patch}}}});
}

TEST(MinimaxM3, BlocksClampsAndRotationsCount) {
  const std::vector<float> expected = plain(kM3);
  for (const json& patch : {json{{"sparse_topk_blocks", 1}}, json{{"sparse_topk_blocks", 16}},
                            json{{"sparse_local_block", 0}}, json{{"sparse_local_block", 2}},
                            json{{"sparse_block_size", 16}}}) {
    EXPECT_GT(worst(logits_after(kM3, with_sparse(patch)), expected), 1e-3) << patch;
  }
  const json all_layers = {{"sparse_attention_freq", {1, 1, 1}},
                           {"sparse_disable_index_value", {1, 1, 1}}};
  EXPECT_THAT(error_after(kM3, with_sparse(all_layers)), HasSubstr("layers.0.self_attn.index_"));
  for (const json& patch : {json{{"swiglu_limit", 7.0}}, json{{"swiglu_alpha", 1.0}},
                            json{{"routed_scaling_factor", 1.0}}, json{{"rope_theta", 1e4}},
                            json{{"rotary_dim", 32}, {"partial_rotary_factor", 1.0}}}) {
    EXPECT_GT(worst(logits_after(kM3, with_text(patch)), expected), 1e-3) << patch;
  }
  // The first sixteen tokens attend to all keys.
  const std::vector<float> all = logits_after(kM3, with_sparse({{"sparse_topk_blocks", 16}}));
  EXPECT_TRUE(std::equal(all.begin(), all.begin() + std::ptrdiff_t{16} * 320, expected.begin()));
}

// Norms multiply by 1 + w, and those of the indexer are its own.
TEST(MinimaxM3, EveryNormOfALayerCounts) {
  const std::vector<float> expected = plain(kM3);
  for (const char* name : {"input_layernorm", "self_attn.q_norm", "self_attn.k_norm",
                           "self_attn.index_q_norm", "self_attn.index_k_norm"}) {
    const auto shifted = [&](EditableCheckpoint& c) {
      auto& bytes =
          c.tensors.at("language_model.model.layers.1." + std::string(name) + ".weight").bytes;
      auto* elements = reinterpret_cast<Bf16*>(bytes.data());
      for (size_t i = 0; i < bytes.size() / sizeof(Bf16); ++i) {
        elements[i] = to_bf16(to_float(elements[i]) - (i % 2 == 0 ? 1.0f : 0.0f));
      }
    };
    EXPECT_GT(worst(logits_after(kM3, shifted), expected), 1e-3) << name;
  }
}

TEST(MinimaxM3, ConfigurationsHaveTwoSpellings) {
  const std::vector<float> expected = plain(kM3);
  const json of_transformers = {
      {"sparse_attention_config", nullptr},
      {"moe_layer_freq", nullptr},
      {"index_head_dim", 32},
      {"index_n_heads", 2},
      {"index_topk_blocks", 2},
      {"index_block_size", 8},
      {"index_local_blocks", 1},
      {"layer_types", {"full_attention", "minimax_m3_sparse", "minimax_m3_sparse"}},
      {"mlp_layer_types", {"dense", "sparse", "sparse"}},
      {"hidden_act", "silu"}};
  EXPECT_EQ(logits_after(kM3, with_text(of_transformers)), expected);
  EXPECT_EQ(logits_after(kM3, with_text({{"partial_rotary_factor", nullptr}})), expected);
  EXPECT_EQ(logits_after(kM3, with_text({{"rotary_dim", nullptr}})), expected);
}

TEST(MinimaxM3, TheCorrectionBiasIsReadAsTheFloat32ThatItIs) {
  expect_that_bf16_loses(
      kM3, "language_model.model.layers.1.block_sparse_moe.e_score_correction_bias", 8);
}

TEST(MinimaxM3, WhatIsNotComputedIsRefusedByName) {
  const auto text = [](const json& patch) { return json{{"text_config", patch}}; };
  const auto sparse = [&](const json& patch) { return text({{"sparse_attention_config", patch}}); };
  expect_refused(
      kM3, {{text({{"use_gemma_norm", false}}), "use_gemma_norm"},
            {text({{"qk_norm_type", "per_layer"}}), "qk_norm_type"},
            {text({{"use_qk_norm", false}}), "use_qk_norm"},
            {text({{"attention_output_gate", true}}), "attention_output_gate"},
            {text({{"scoring_func", "softmax"}}), "scoring_func"},
            {text({{"use_routing_bias", false}}), "use_routing_bias"},
            {text({{"n_shared_experts", 2}}), "n_shared_experts"},
            {text({{"hidden_act", "gelu"}}), "hidden_act"},
            {text({{"index_topk_blocks", 3}}), "index_topk_blocks"},
            {text({{"moe_layer_freq", {1, 1, 1}}}), "layers.0.block_sparse_moe"},
            {sparse({{"sparse_score_type", "mean"}}), "sparse_score_type"},
            {sparse({{"sparse_init_block", 1}}), "sparse_init_block"},
            {sparse({{"use_sparse_attention", false}}), "use_sparse_attention"},
            {sparse({{"sparse_disable_index_value", {0, 1, 0}}}), "sparse_disable_index_value"},
            {sparse({{"sparse_num_index_heads", 4}}), "index_n_heads"},
            {sparse({{"sparse_index_dim", 8}}), "index_head_dim"},
            {sparse({{"sparse_local_block", 3}}), "index_local_blocks"},
            {sparse({{"sparse_window", 3}}), "sparse_window"}});
  expect_missed(kM3,
                {"language_model.model.layers.1.self_attn.index_k_proj.weight",
                 "language_model.model.layers.2.self_attn.index_q_norm.weight",
                 "language_model.model.layers.1.block_sparse_moe.e_score_correction_bias",
                 "language_model.model.layers.1.block_sparse_moe.shared_experts.up_proj.weight",
                 "language_model.model.layers.0.mlp.gate_proj.weight"});
}

TEST(MinimaxM3, GpusChooseBlocksToo) {
  const auto checkpoint = Checkpoint::open(folder_of(kM3), {.headers_only = true});
  EXPECT_THAT(refusals(*checkpoint), ::testing::IsEmpty());
  for (const int sm : {80, 90, 120, 121}) {
    EXPECT_THAT(refusals(*checkpoint, Device::cuda_sm(sm)), ::testing::IsEmpty());
  }
}

}  // namespace
}  // namespace moe4
