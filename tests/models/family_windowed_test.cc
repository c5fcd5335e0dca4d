// Laguna, MiMo-V2-Flash and Step-3.7, whose layers differ in windows, rotations and heads.
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
using testing::with_text;
using testing::worst;

// ---- Laguna

const std::string kLagunaName = "laguna-modelopt-nvfp4";

TEST(Laguna, EveryKindOfLayerHasItsWindowItsRotaryEmbeddingAndItsHeads) {
  const std::vector<float> expected = plain(kLagunaName);
  const json patches[] = {
      {{"sliding_window", 9}},
      {{"rope_parameters", {{"sliding_attention", {{"rope_theta", 5e5}}}}}},
      {{"rope_parameters", {{"full_attention", {{"partial_rotary_factor", 1.0}}}}}},
      {{"rope_parameters", {{"full_attention", {{"factor", 16.0}}}}}}};
  for (const json& patch : patches) {
    EXPECT_GT(worst(logits_after(kLagunaName, with(patch)), expected), 1e-3) << patch;
  }
  EXPECT_EQ(logits_after(kLagunaName, with({{"gating", true}})), expected);
}

TEST(Laguna, TheCorrectionBiasIsReadAsTheFloat32ThatItIs) {
  expect_that_bf16_loses(kLagunaName, "model.layers.1.mlp.experts.e_score_correction_bias", 8);
}

TEST(Laguna, WhatIsNotComputedIsRefusedByName) {
  const json other = {"full_attention", "chunked_attention", "full_attention"};
  expect_refused(kLagunaName,
                 {{{{"gating", "none"}}, "gating"},
                  {{{"gating", "per-element"}}, "g_proj"},
                  {{{"num_attention_heads_per_layer", {4, 4, 4}}}, "model.layers.1.self_attn"},
                  {{{"num_attention_heads_per_layer", {4, 7, 4}}}, "num_attention_heads_per_layer"},
                  {{{"num_attention_heads_per_layer", {4, 0, 4}}}, "num_attention_heads_per_layer"},
                  {{{"num_attention_heads_per_layer", {4}}}, "num_attention_heads_per_layer"},
                  {{{"layer_types", other}}, "chunked_attention"},
                  {{{"moe_router_logit_softcapping", 30.0}}, "moe_router_logit_softcapping"},
                  {{{"moe_apply_router_weight_on_input", true}}, "router_weight_on_input"},
                  {{{"rope_parameters", {{"sliding_attention", nullptr}}}}, "sliding_attention"}});
  expect_missed(kLagunaName, {"model.layers.2.self_attn.g_proj.weight",
                              "model.layers.1.mlp.experts.e_score_correction_bias"});
}

// ---- MiMo-V2-Flash

const std::string kMimo = "mimo_v2_flash-modelopt-nvfp4";

TEST(MimoV2Flash, WindowsValuesAndRotationsCount) {
  const std::vector<float> expected = plain(kMimo);
  const json patches[] = {{{"sliding_window_size", 8}},  {{"attention_value_scale", 0.8}},
                          {{"swa_rope_theta", 5e6}},     {{"rope_theta", 1e4}},
                          {{"swa_rope_theta", nullptr}}, {{"partial_rotary_factor", 0.67}}};
  for (const json& patch : patches) {
    EXPECT_GT(worst(logits_after(kMimo, with(patch)), expected), 1e-3) << patch;
  }
  const auto unscaled = [](EditableCheckpoint& c) { c.config["attention_value_scale"] = nullptr; };
  EXPECT_GT(worst(logits_after(kMimo, unscaled), expected), 1e-3);
  EXPECT_EQ(logits_after(kMimo, with({{"attention_value_scale", nullptr}})), expected);  // absent
  // One key counts those before the token, the other it too.
  const json other = {{"sliding_window_size", nullptr}, {"sliding_window", 8}};
  EXPECT_EQ(logits_after(kMimo, with(other)), expected);
}

TEST(MimoV2Flash, LayersHaveTwoSpellings) {
  const auto rope = [](double theta) {
    return json{{"rope_type", "default"}, {"rope_theta", theta}, {"partial_rotary_factor", 0.334}};
  };
  const json five = {
      {"hybrid_layer_pattern", nullptr},
      {"moe_layer_freq", nullptr},
      {"rope_theta", nullptr},
      {"swa_rope_theta", nullptr},
      {"partial_rotary_factor", nullptr},
      {"layer_types", {"full_attention", "sliding_attention", "sliding_attention"}},
      {"mlp_layer_types", {"dense", "sparse", "sparse"}},
      {"rope_parameters", {{"full_attention", rope(5e6)}, {"sliding_attention", rope(1e4)}}}};
  EXPECT_EQ(logits_after(kMimo, with(five)), plain(kMimo));
}

TEST(MimoV2Flash, TheCorrectionBiasIsReadAsTheFloat32ThatItIs) {
  expect_that_bf16_loses(kMimo, "model.layers.1.mlp.gate.e_score_correction_bias", 8);
}

TEST(MimoV2Flash, WhatIsNotComputedIsRefusedByName) {
  expect_refused(kMimo, {{{{"add_swa_attention_sink_bias", false}}, "attention_sink_bias"},
                         {{{"add_full_attention_sink_bias", true}}, "layers.0.self_attn"},
                         {{{"hybrid_layer_pattern", {0, 1, 0}}}, "layers.2.self_attn"},
                         {{{"swa_num_key_value_heads", 1}}, "layers.1.self_attn"},
                         {{{"swa_num_key_value_heads", 3}}, "swa_num_attention_heads"},
                         {{{"v_head_dim", 64}}, "v_head_dim"},
                         {{{"v_head_dim", 16}}, "layers.0.self_attn"},
                         {{{"n_shared_experts", 1}}, "n_shared_experts"},
                         {{{"scoring_func", "softmax"}}, "scoring_func"},
                         {{{"attention_bias", true}}, "attention_bias"}});
  expect_missed(kMimo, {"model.layers.2.self_attn.attention_sink_bias",
                        "model.layers.1.mlp.gate.e_score_correction_bias"});
}

// ---- Step-3.7

const std::string kStep = "step3p7-modelopt-nvfp4";

TEST(Step3p7, LimitsWindowsAndRotationsCount) {
  const std::vector<float> expected = plain(kStep);
  const json patches[] = {{{"swiglu_limits", {0.0, 0.0, 0.7, 0.0, 0.0}}},
                          {{"swiglu_limits", {0.0, 0.0, nullptr, 0.5, 0.0}}},
                          {{"swiglu_limits_shared", {0.0, 0.0, 0.0, 0.8, 0.0}}},
                          {{"swiglu_limits_shared", {0.9, 0.0, 0.0, 0.0, 0.0}}},
                          {{"sliding_window", 9}},
                          {{"moe_router_scaling_factor", nullptr}},
                          {{"rope_theta", {5e6, 5e6, 5e6, 5e6, 1e4}}},
                          {{"partial_rotary_factors", {1.0, 1.0, 1.0, 1.0, 1.0}}},
                          {{"rope_scaling",
                            {{"rope_type", "llama3"},
                             {"factor", 2.0},
                             {"low_freq_factor", 1.0},
                             {"high_freq_factor", 32.0},
                             {"original_max_position_embeddings", 32}}}}};
  for (const json& patch : patches) {
    EXPECT_GT(worst(logits_after(kStep, with_text(patch)), expected), 1e-4) << patch;
  }
}

TEST(Step3p7, ConfigurationsHaveTwoSpellings) {
  const auto rope = [](double theta, double part) {
    return json{{"rope_type", "default"}, {"rope_theta", theta}, {"partial_rotary_factor", part}};
  };
  const json five = {{"rope_theta", nullptr},
                     {"partial_rotary_factors", nullptr},
                     {"rope_parameters",
                      {{"full_attention", rope(5e6, 0.5)}, {"sliding_attention", rope(1e4, 1)}}},
                     {"moe_layers_enum", nullptr},
                     {"mlp_layer_types", {"dense", "sparse", "sparse", "sparse"}},
                     {"attention_other_setting", nullptr},
                     {"num_sliding_attention_heads", 8},
                     {"num_attention_groups", nullptr},
                     {"num_key_value_heads", 2},
                     {"moe_num_experts", nullptr},
                     {"n_routed_experts", 8},
                     {"moe_top_k", nullptr},
                     {"num_experts_per_tok", 3}};
  EXPECT_EQ(logits_after(kStep, with_text(five)), plain(kStep));
}

TEST(Step3p7, TheCorrectionBiasIsReadAsTheFloat32ThatItIs) {
  expect_that_bf16_loses(kStep, "model.layers.1.moe.router_bias", 8);
}

TEST(Step3p7, WhatIsNotComputedIsRefusedByName) {
  const auto text = [](const json& patch) { return json{{"text_config", patch}}; };
  expect_refused(
      kStep,
      {{text({{"use_head_wise_attn_gate", false}}), "use_head_wise_attn_gate"},
       {text({{"moe_router_activation", "softmax"}}), "moe_router_activation"},
       {text({{"use_moe_router_bias", false}}), "use_moe_router_bias"},
       {text({{"norm_expert_weight", false}}), "norm_expert_weight"},
       {text({{"rope_theta", {5e6, 1e4, 1e4, 1e6, 1e4}}}), "rope_theta"},
       {text({{"rope_theta", {5e6, 1e4}}}), "rope_theta"},
       {text({{"swiglu_limits_shared", {0.0, -1.0, 0.0, 0.0, 0.0}}}), "swiglu_limits_shared"},
       {text({{"swiglu_limits", {0.0, 0.0, 0.0}}}), "swiglu_limits"},
       {text({{"moe_layers_enum", "2,3"}}), "layers.1"},
       {text({{"attention_other_setting", {{"num_attention_heads", 4}}}}), "layers.1.self_attn"},
       {text({{"query_pre_attn_scalar", 64}}), "query_pre_attn_scalar"},
       {text({{"attention_bias", true}}), "attention_bias"}});
  expect_missed(kStep, {"model.layers.1.moe.router_bias", "model.layers.0.self_attn.g_proj.weight",
                        "model.layers.2.share_expert.down_proj.weight",
                        "model.layers.3.moe.gate_proj.weight"});
}

}  // namespace
}  // namespace moe4
