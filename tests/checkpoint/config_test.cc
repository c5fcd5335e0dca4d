// config.json of the families, in the spellings they are published in.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/config_parser.h"

namespace moe4 {
namespace {

ModelConfig parse(const std::string& text) {
  return parse_model_config(parse_json(text, "config.json"), "config.json");
}

int count(const std::vector<bool>& flags) {
  return static_cast<int>(std::count(flags.begin(), flags.end(), true));
}

TEST(Config, Qwen3MoeInBothSpellings) {
  const std::string common = R"("model_type": "qwen3_moe", "hidden_size": 2048, "head_dim": 128,
      "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
      "vocab_size": 151936, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
      "intermediate_size": 6144, "norm_topk_prob": true, "mlp_only_layers": [])";
  const ModelConfig v4 = parse("{" + common + R"(, "num_experts": 128, "rope_theta": 1e6,
      "torch_dtype": "bfloat16", "rope_scaling": null})");
  const ModelConfig v5 = parse("{" + common + R"(, "num_local_experts": 128, "dtype": "bfloat16",
      "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}})");
  for (const ModelConfig& config : {v4, v5}) {
    EXPECT_EQ(config.moe.num_experts, 128);
    EXPECT_EQ(count(config.is_moe_layer), 48);
    EXPECT_TRUE(config.router.renormalize);
    EXPECT_EQ(config.router.scoring, ScoringFunction::kSoftmax);
    EXPECT_FALSE(config.rope_per_layer);
  }
}

TEST(Config, Qwen35IsReadFromTextConfig) {
  const ModelConfig config = parse(R"({"architectures": ["Qwen3_5MoeForConditionalGeneration"],
      "model_type": "qwen3_5_moe", "tie_word_embeddings": false,
      "vision_config": {"hidden_size": 1152},
      "text_config": {"model_type": "qwen3_5_moe_text", "hidden_size": 2048,
        "num_hidden_layers": 40, "num_attention_heads": 16, "num_key_value_heads": 2,
        "head_dim": 256, "vocab_size": 248320, "num_experts": 256, "num_experts_per_tok": 8,
        "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
        "linear_num_key_heads": 16, "linear_num_value_heads": 32, "full_attention_interval": 4,
        "rope_parameters": {"rope_theta": 10000000, "rope_type": "default",
          "mrope_section": [11, 11, 10], "partial_rotary_factor": 0.25}}})");
  EXPECT_EQ(config.model_type, "qwen3_5_moe_text");
  EXPECT_EQ(config.hidden_size, 2048);
  EXPECT_EQ(config.layer_kinds[2], LayerKind::kLinearAttention);
  EXPECT_EQ(config.layer_kinds[3], LayerKind::kFullAttention);
  EXPECT_EQ(config.shared_expert_intermediate_size, 512);
  EXPECT_EQ(config.rope_type, "default");
  EXPECT_TRUE(config.router.renormalize);
}

TEST(Config, DeepSeekV3HasDenseLayersFirstAndGroupedSigmoidRouting) {
  const ModelConfig config = parse(R"({"model_type": "deepseek_v3", "hidden_size": 7168,
      "num_hidden_layers": 61, "num_attention_heads": 128, "vocab_size": 129280,
      "n_routed_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
      "n_shared_experts": 1, "first_k_dense_replace": 3, "moe_layer_freq": 1, "n_group": 8,
      "topk_group": 4, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
      "norm_topk_prob": true, "intermediate_size": 18432, "qk_nope_head_dim": 128,
      "qk_rope_head_dim": 64, "rope_scaling": {"type": "yarn", "factor": 40}})");
  EXPECT_EQ(count(config.is_moe_layer), 58);
  EXPECT_TRUE(config.router_has_correction_bias && config.is_latent_attention);
  EXPECT_FALSE(config.is_moe_layer[2]);
  EXPECT_EQ(config.router.scoring, ScoringFunction::kSigmoid);
  EXPECT_EQ(config.router.num_groups, 8);
  EXPECT_EQ(config.router.scaling_factor, 2.5f);
  EXPECT_EQ(config.shared_expert_intermediate_size, 2048);
  EXPECT_EQ(config.rope_type, "yarn");
}

TEST(Config, NemotronHPatternSaysWhichLayersHaveUngatedExperts) {
  const ModelConfig config = parse(R"({"model_type": "nemotron_h", "hidden_size": 2688,
      "num_hidden_layers": 6, "hybrid_override_pattern": "MEM*EM", "num_attention_heads": 32,
      "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 131072, "n_routed_experts": 128,
      "num_experts_per_tok": 6, "moe_intermediate_size": 1856, "moe_latent_size": 1024,
      "moe_shared_expert_intermediate_size": 3712, "mlp_hidden_act": "relu2",
      "routed_scaling_factor": 2.5, "time_step_limit": [0.0, Infinity]})");
  EXPECT_EQ(count(config.is_moe_layer), 2);
  EXPECT_TRUE(config.is_moe_layer[1] && config.is_moe_layer[4]);
  EXPECT_FALSE(config.moe.activation.is_gated());
  EXPECT_EQ(config.moe.hidden_size, 1024);
  EXPECT_EQ(config.shared_expert_intermediate_size, 3712);
}

TEST(Config, OtherFamiliesGiveWhatAPlanNeeds) {
  const std::string common = R"("hidden_size": 2880, "num_attention_heads": 64, "head_dim": 64,
      "num_hidden_layers": 4, "num_key_value_heads": 8, "vocab_size": 1000,
      "intermediate_size": 2880, )";
  const ModelConfig oss = parse("{" + common + R"("model_type": "gpt_oss",
      "num_local_experts": 32, "num_experts_per_tok": 4, "swiglu_limit": 7.0})");
  EXPECT_EQ(oss.moe.activation.kind, ActivationKind::kSwigluOai);
  EXPECT_EQ(oss.moe.intermediate_size, 2880);
  EXPECT_EQ(oss.router.scoring, ScoringFunction::kSoftmaxOverSelected);

  const ModelConfig minimax = parse("{" + common + R"("model_type": "minimax_m2",
      "num_local_experts": 256, "num_experts_per_tok": 8, "scoring_func": "sigmoid"})");
  EXPECT_EQ(minimax.router.scoring, ScoringFunction::kSigmoid);
  EXPECT_EQ(count(minimax.is_moe_layer), 4);

  const ModelConfig llama = parse(R"({"model_type": "llama4", "text_config": {)" + common +
                                  R"("model_type": "llama4_text", "num_local_experts": 16,
      "num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 16384}})");
  EXPECT_EQ(count(llama.is_moe_layer), 2);
  EXPECT_TRUE(llama.moe.weight_on_input && llama.is_moe_layer[1]);
  EXPECT_EQ(llama.dense_intermediate_size, 16384);

  const ModelConfig gemma = parse(R"({"model_type": "gemma4", "text_config": {)" + common +
                                  R"("model_type": "gemma4_text", "num_experts": 128,
      "top_k_experts": 8, "moe_intermediate_size": 704, "hidden_activation": "gelu_pytorch_tanh"}})");
  EXPECT_EQ(gemma.moe.activation.kind, ActivationKind::kGeluTanh);
  EXPECT_EQ(gemma.moe.top_k, 8);
  EXPECT_TRUE(gemma.router_has_expert_scale);

  const ModelConfig v4 = parse("{" + common + R"("model_type": "deepseek_v4",
      "n_routed_experts": 256, "num_experts_per_tok": 6, "moe_intermediate_size": 2048,
      "scoring_func": "sqrtsoftplus", "swiglu_limit": 10.0})");
  EXPECT_EQ(v4.router_scoring, "sqrtsoftplus");
  EXPECT_EQ(v4.moe.activation.limit, 10.0f);

  const ModelConfig dense = parse("{" + common + R"("model_type": "llama"})");
  EXPECT_EQ(count(dense.is_moe_layer), 0);
}

const std::string kSizes = R"("hidden_size": 64, "num_attention_heads": 4, "head_dim": 16,
    "vocab_size": 260, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32)";

std::vector<int64_t> moe_layers(const ModelConfig& config) {
  std::vector<int64_t> layers;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    if (config.is_moe_layer[i]) layers.push_back(i);
  }
  return layers;
}

TEST(Layers, EverySpellingSaysWhichHaveExperts) {
  const struct {
    const char* keys;
    std::vector<int64_t> layers;
  } cases[] = {
      {R"("num_hidden_layers": 4)", {0, 1, 2, 3}},
      {R"("num_hidden_layers": 4, "first_k_dense_replace": 3)", {3}},
      {R"("num_hidden_layers": 4, "decoder_sparse_step": 2)", {1, 3}},
      {R"("num_hidden_layers": 4, "interleave_moe_layer_step": 2)", {1, 3}},
      {R"("num_hidden_layers": 4, "mlp_only_layers": [0, 2])", {1, 3}},
      {R"("num_hidden_layers": 4, "moe_layer_freq": 2)", {0, 2}},
      {R"("num_hidden_layers": 4, "moe_layer_freq": [0, 1, 1, 0])", {1, 2}},
      {R"("num_hidden_layers": 4, "moe_layers": [3])", {3}},
      {R"("num_hidden_layers": 4, "moe_layers_enum": "1, 2")", {1, 2}},
      {R"("num_hidden_layers": 4, "num_nextn_predict_layers": 1, "moe_layers_enum": "2,3,4")",
       {2, 3}},
      {R"("num_hidden_layers": 4, "moe_layer_start_index": 1, "moe_layer_end_index": 2)", {1, 2}},
      {R"("num_hidden_layers": 4, "moe_layer_interval": 2)", {1, 3}},
      {R"("num_hidden_layers": 3, "mlp_layer_types": ["dense", "hash_moe", "moe"])", {1, 2}},
      {R"("num_hidden_layers": 2, "mlp_layer_types": ["dense", "sparse"])", {1}},
      {R"("layer_types": ["full_attention", "sliding_attention"], "moe_layer_freq": [1, 0])", {0}},
  };
  for (const auto& [keys, layers] : cases) {
    const ModelConfig config = parse(R"({"model_type": "some_moe", )" + kSizes + ", " + keys + "}");
    EXPECT_EQ(moe_layers(config), layers) << keys;
    EXPECT_EQ(count(config.has_feed_forward), config.num_layers) << keys;
  }
}

void expect_error(const std::string& keys, const std::string& mention,
                  const std::string& type = "some_moe") {
  try {
    parse(R"({"model_type": ")" + type + R"(", )" + kSizes + ", " + keys + "}");
    ADD_FAILURE() << keys;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.what(), ::testing::HasSubstr(mention)) << keys;
  }
}

// They are the architecture file's to refuse: plans of the rest must not stop.
TEST(Layers, UnknownWordsAreUnknownKinds) {
  const auto kind_of = [](const std::string& type, const std::string& keys) {
    const ModelConfig config =
        parse(R"({"model_type": ")" + type + R"(", )" + kSizes + ", " + keys + "}");
    EXPECT_FALSE(config.is_moe_layer.at(1) && type == "nemotron_h");
    return config.layer_kinds.at(1);
  };
  for (const char* type : {"some_moe", "qwen3_next", "nemotron_h"}) {
    EXPECT_EQ(kind_of(type, R"("layer_types": ["full_attention", "wavelet"])"), LayerKind::kUnknown)
        << type;
  }
  EXPECT_EQ(kind_of("nemotron_h", R"("layers_block_type": ["mamba", "gru"])"), LayerKind::kUnknown);
  EXPECT_EQ(kind_of("nemotron_h", R"("hybrid_override_pattern": "MX")"), LayerKind::kUnknown);
}

TEST(Layers, ListsThatDoNotFitAreErrors) {
  expect_error(R"("num_hidden_layers": 2, "mlp_layer_types": ["moe", "lstm"])", "lstm");
  expect_error(R"("num_hidden_layers": 2, "mlp_layer_types": ["moe"])", "mlp_layer_types");
  expect_error(R"("num_hidden_layers": 2, "moe_layer_freq": [1, 1, 1])", "moe_layer_freq");
  expect_error(R"("num_hidden_layers": 2, "moe_layer_freq": [1, "x"])", "moe_layer_freq");
  expect_error(R"("num_hidden_layers": 2, "moe_layers_enum": "1,2")", "moe_layers_enum");
  expect_error(R"("num_hidden_layers": 2, "moe_layers_enum": "1,-1")", "moe_layers_enum");
  expect_error(R"("num_hidden_layers": 2, "moe_layers": [2])", "moe_layers");
  expect_error(R"("num_hidden_layers": 3, "hybrid_override_pattern": "ME")", "wrong length",
               "nemotron_h");
  expect_error(R"("layer_types": [])", "num_hidden_layers");
}

TEST(Layers, ListsMayHoldDraftLayersTooWhichAreCut) {
  const ModelConfig config = parse(R"({"model_type": "step3p7", )" + kSizes + R"(,
      "num_hidden_layers": 2, "num_nextn_predict_layers": 1, "num_attention_groups": 2,
      "layer_types": ["full_attention", "sliding_attention", "full_attention"],
      "rope_theta": [5e6, 1e4, 1e4], "moe_layers_enum": "1", "swiglu_limits": [0, 7.0, 9.0]})");
  EXPECT_EQ(config.num_layers, 2);
  EXPECT_EQ(config.layer_kinds,
            (std::vector{LayerKind::kFullAttention, LayerKind::kSlidingAttention}));
  EXPECT_TRUE(config.rope_per_layer);
  EXPECT_EQ(config.expert_limits.size(), 2u);
  // 0 is no limit: plain SwiGLU. Step clamps after the activation.
  EXPECT_EQ(config.moe_problem(0).activation.kind, ActivationKind::kSilu);
  EXPECT_FALSE(config.moe_problem(0).activation.has_limit());
  EXPECT_EQ(config.moe_problem(1).activation.kind, ActivationKind::kSiluLateClamp);
  EXPECT_EQ(config.moe_problem(1).activation.limit, 7.0f);
}

TEST(Layers, NemotronCountsItsLayersInThePatternOrTheListOfEitherGeneration) {
  for (const char* keys :
       {R"("hybrid_override_pattern": "ME|*-")", R"("hybrid_override_pattern": "ME*-")",
        R"("layers_block_type": ["mamba", "moe", "attention", "mlp"])",
        R"("layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"])"}) {
    const ModelConfig config =
        parse(R"({"model_type": "nemotron_h", )" + kSizes + ", " + keys + "}");
    EXPECT_EQ(config.layer_kinds, (std::vector{LayerKind::kMamba, LayerKind::kNone,
                                               LayerKind::kFullAttention, LayerKind::kNone}))
        << keys;
    EXPECT_EQ(config.has_feed_forward, (std::vector{false, true, false, true})) << keys;
    EXPECT_EQ(moe_layers(config), std::vector<int64_t>{1}) << keys;
  }
}

TEST(Config, NestingsOfOmniAndMultimodalWrappers) {
  const std::string text = R"({"model_type": "x_text", "num_hidden_layers": 2, )" + kSizes + "}";
  for (const std::string& wrapped :
       {R"({"model_type": "x", "text_config": )" + text + "}",
        R"({"model_type": "x", "llm_config": )" + text + "}",
        R"({"model_type": "x", "language_config": )" + text + "}",
        R"({"model_type": "x", "thinker_config": {"text_config": )" + text + "}}",
        R"({"model_type": "x", "thinker_config": )" + text + "}"}) {
    EXPECT_EQ(parse(wrapped).model_type, "x_text");
    EXPECT_EQ(parse(wrapped).moe.num_experts, 4);
  }
}

TEST(Config, LatentAttentionIgnoresTheFilesOwnHeadWidth) {
  for (const char* head : {"192", "64", "256"}) {
    const ModelConfig config = parse(R"({"model_type": "glm_moe_dsa", "hidden_size": 64,
        "num_attention_heads": 4, "vocab_size": 260, "num_hidden_layers": 2, "index_topk": 8,
        "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "head_dim": )" +
                                     std::string(head) + "}");
    EXPECT_TRUE(config.is_latent_attention);
    EXPECT_EQ(config.layer_kinds[1], LayerKind::kSparseAttention);
  }
}

TEST(Router, ExtrasOfTheFamilies) {
  const auto of = [](const std::string& type, const std::string& keys) {
    return parse(R"({"model_type": ")" + type + R"(", "num_hidden_layers": 4, )" + kSizes + keys +
                 "}");
  };
  const ModelConfig hy = of("hy_v3", R"(, "router_scaling_factor": 2.5)");
  EXPECT_EQ(hy.router.scoring, ScoringFunction::kSigmoid);
  EXPECT_EQ(hy.router.scaling_factor, 2.5f);
  const ModelConfig ernie = of("ernie4_5_moe", "");
  EXPECT_EQ(ernie.router.scoring, ScoringFunction::kSoftmax);
  EXPECT_TRUE(ernie.router_has_correction_bias);
  const ModelConfig v4 = of("deepseek_v4", R"(, "num_hash_layers": 2)");
  EXPECT_EQ(v4.is_hash_layer, (std::vector{true, true, false, false}));
  EXPECT_EQ(v4.router_scoring, "sqrtsoftplus");
  EXPECT_TRUE(of("gpt_oss", "").router_has_logit_bias);
  EXPECT_EQ(of("laguna", R"(, "moe_router_logit_softcapping": 30.0)").router_logit_cap, 30.0f);
  EXPECT_FALSE(of("deepseek_v3", R"(, "topk_method": "greedy")").router_has_correction_bias);
  EXPECT_TRUE(of("llama4_text", "").moe.weight_on_input);
  EXPECT_FALSE(of("llama4_text", "").router_has_correction_bias);
  EXPECT_EQ(of("nemotron_h", R"(, "moe_latent_size": 48)").moe.hidden_size, 48);
}

TEST(Activation, WhatTheFamilyMeansBeatsTheWordInTheFile) {
  const auto of = [](const std::string& type, const std::string& keys) {
    return parse(R"({"model_type": ")" + type + R"(", "num_hidden_layers": 2, )" + kSizes + keys +
                 "}")
        .moe.activation;
  };
  EXPECT_EQ(of("minimax_m3_vl", R"(, "hidden_act": "silu")").kind, ActivationKind::kSwigluOai);
  EXPECT_EQ(of("minimax_m3_vl", R"(, "swiglu_limit": 5.0, "swiglu_alpha": 2.0)").limit, 5.0f);
  EXPECT_EQ(of("gpt_oss", "").limit, 7.0f);
  EXPECT_EQ(of("deepseek_v4", R"(, "swiglu_limit": 10.0)").kind, ActivationKind::kSilu);
  EXPECT_FALSE(of("deepseek_v4", R"(, "swiglu_limit": 0)").has_limit());
  expect_error(R"("num_hidden_layers": 2, "swiglu_limit": -1)", "swiglu_limit");
  expect_error(R"("num_hidden_layers": 2, "swiglu_limits": [1.0])", "swiglu_limits");
  expect_error(R"("num_hidden_layers": 2, "hidden_act": "gelu")", "hidden_act");
  // A dense model's activation is nobody's business here.
  EXPECT_EQ(parse(R"({"model_type": "bert", "hidden_size": 64, "num_attention_heads": 4,
      "vocab_size": 260, "num_hidden_layers": 2, "hidden_act": "gelu"})")
                .moe.num_experts,
            0);
}

}  // namespace
}  // namespace moe4
