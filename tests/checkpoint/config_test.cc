// config.json of the families, in the spellings they are published in.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

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
    EXPECT_EQ(config.rope_theta, 1e6);
    EXPECT_EQ(config.head_dim, 128);
    EXPECT_EQ(count(config.is_moe_layer), 48);
    EXPECT_TRUE(config.router.renormalize);
    EXPECT_EQ(config.router.scoring, ScoringFunction::kSoftmax);
    EXPECT_FALSE(config.one_plus_weight_norm);
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
  EXPECT_EQ(config.partial_rotary_factor, 0.25);
  EXPECT_TRUE(config.attn_output_gate && config.shared_expert_has_gate);
  EXPECT_TRUE(config.one_plus_weight_norm && config.router.renormalize);
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
  EXPECT_TRUE(gemma.one_plus_weight_norm);

  const ModelConfig v4 = parse("{" + common + R"("model_type": "deepseek_v4",
      "n_routed_experts": 256, "num_experts_per_tok": 6, "moe_intermediate_size": 2048,
      "scoring_func": "sqrtsoftplus", "swiglu_limit": 10.0})");
  EXPECT_EQ(v4.router_scoring, "sqrtsoftplus");
  EXPECT_EQ(v4.moe.activation.limit, 10.0f);

  const ModelConfig dense = parse("{" + common + R"("model_type": "llama"})");
  EXPECT_EQ(count(dense.is_moe_layer), 0);
}

TEST(Config, GenerationDefaultsSurviveMissingAndNullKeys) {
  const auto config =
      parse_generation_config(parse_json(R"({"eos_token_id": 7, "temperature": null})", "F"), "F");
  EXPECT_EQ(config.eos_token_ids, std::vector<int32_t>{7});
  EXPECT_EQ(config.temperature, 1.0f);
  EXPECT_EQ(config.top_p, 1.0f);
}

}  // namespace
}  // namespace moe4
