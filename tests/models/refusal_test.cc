// What would change the numbers and is not computed is refused by name, not ignored.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "models/model.h"
#include "models/refusals.h"
#include "ops/experts/registry.h"
#include "support/editable_checkpoint.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using testing::EditableCheckpoint;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::replaced;
using testing::TempDir;

const char* const kQwen3 = "qwen3-modelopt-nvfp4";
const char* const kQwen35 = "qwen3_5-modelopt-mixed-prefix";

// What Model::load says; "" when it loads. The first of refusals() must be the same, with the
// data and without.
std::string load_error(const EditableCheckpoint& editable) {
  register_builtin_backends();
  TempDir dir;
  editable.write(dir.path());
  ThreadPool threads(1);
  std::string error;
  const auto checkpoint = Checkpoint::open(dir.path());
  try {
    Model::load(*checkpoint, {.threads = &threads});
  } catch (const Error& caught) {
    EXPECT_EQ(caught.code(), ErrorCode::kBadInput);
    error = caught.what();
  }
  const auto headers = Checkpoint::open(dir.path(), {.headers_only = true});
  const std::vector<Refusal> found = refusals(*headers);
  EXPECT_EQ(found.empty(), error.empty()) << error;
  if (!found.empty()) {
    EXPECT_THAT(error, ::testing::StartsWith(found.front().message));
  }
  return error;
}

std::string error_with(const char* name, const std::function<void(json&)>& change) {
  EditableCheckpoint checkpoint(name);
  json& text = checkpoint.config.contains("text_config") ? checkpoint.config["text_config"]
                                                         : checkpoint.config;
  change(text);
  return load_error(checkpoint);
}

TEST(Refusal, UnchangedCheckpointsLoad) {
  for (const char* name :
       {kQwen3, kQwen35, "qwen3-ct-mixed", "qwen3-fp8-block128", "qwen3-modelopt-fp8",
        "qwen3_5-fused-experts", "qwen3_5-ct-nvfp4a16", "gpt_oss-mxfp4"}) {
    EXPECT_EQ(load_error(EditableCheckpoint(name)), "") << name;
  }
}

TEST(Refusal, SettingsThatChangeNumbersAreNamed) {
  const std::pair<const char*, json> on[] = {
      {"sliding_window_size", 128},
      {"attention_chunk_size", 8192},
      {"sparse_attention_config", {{"blocks", 16}}},
      {"use_bidirectional_attention", true},
      {"is_causal", false},
      {"attention_sinks", true},
      {"attn_logit_softcapping", 50.0},
      {"final_logit_softcapping", 30},
      {"attention_multiplier", 0.0078125},
      {"query_pre_attn_scalar", 256},
      {"attn_temperature_tuning", true},
      {"clip_qkv", 8.0},
      {"use_qk_norm", false},
      {"v_head_dim", 128},
      {"no_rope_layers", {1, 0}},
      {"rope_interleave", true},
      {"position_embedding_type", "alibi"},
      {"embedding_multiplier", 12.0},
      {"residual_multiplier", 0.22},
      {"logits_scaling", 8},
      {"logit_scale", 0.0625},
      {"scale_depth", 1.4},
      {"hc_mult", 4},
      {"num_zero_experts", 2},
      {"topk_method", "noaux_tc"},
      {"moe_latent_size", 64},
      {"swiglu_limit", 7.0},
      {"mlp_multipliers", {1.0, 0.5}},
      {"first_k_dense_replace", 1},
      {"moe_layer_freq", {0, 1}},
      {"mlp_layer_types", {"sparse", "dense"}},
      {"routed_scaling_factor", 2.5},
      {"n_group", 2},
      {"n_shared_experts", 1},
      {"use_qkv_bias", true},
  };
  for (const auto& [key, value] : on) {
    for (const char* name : {kQwen3, kQwen35}) {
      const std::string error = error_with(name, [&](json& text) { text[key] = value; });
      EXPECT_THAT(error, AllOf(HasSubstr(key), HasSubstr("config.json"))) << name;
    }
  }
}

TEST(Refusal, SettingsThatAreOffAreNoObstacle) {
  const std::string error = error_with(kQwen3, [](json& text) {
    text["sliding_window_size"] = nullptr;
    text["attention_sinks"] = false;
    text["num_zero_experts"] = 0;
    text["is_causal"] = true;
    text["query_pre_attn_scalar"] = text["head_dim"];
    text["v_head_dim"] = text["head_dim"];
    text["rotary_dim"] = text["head_dim"];
    text["no_rope_layers"] = {1, 1};
    text["position_embedding_type"] = "rope";
    text["topk_method"] = "greedy";
    text["embedding_multiplier"] = 1.0;
    text["mlp_multipliers"] = {1, 1.0};
    text["swiglu_limits"] = {0, nullptr};
    text["rope_interleave"] = false;
    text["something_unheard_of"] = 7;
    text["n_group"] = 1;
    text["routed_scaling_factor"] = 1.0;
    text["scoring_func"] = "softmax";
    text["moe_layer_freq"] = 1;
    text["mlp_layer_types"] = {"sparse", "sparse"};
    text["n_shared_experts"] = 0;
    text["rope_scaling"] = json::object();
  });
  EXPECT_EQ(error, "");
}

TEST(Refusal, AWindowCountsWhenItsSwitchSaysSo) {
  const auto with = [](const char* name, const json& use, const json& window) {
    return error_with(name, [&](json& text) {
      text["sliding_window"] = window;
      text["max_window_layers"] = 0;
      text.erase("use_sliding_window");
      if (!use.is_null()) text["use_sliding_window"] = use;
    });
  };
  for (const char* name : {kQwen3, kQwen35}) {
    EXPECT_THAT(with(name, true, 4), HasSubstr("sliding_window")) << name;
    EXPECT_EQ(with(name, false, 4), "") << name;
    EXPECT_EQ(with(name, true, nullptr), "") << name;
  }
  EXPECT_EQ(with(kQwen3, nullptr, 4), "");  // the family's switch is off by default
  EXPECT_THAT(with(kQwen35, nullptr, 4), HasSubstr("sliding_window"));
}

TEST(Refusal, LayerTypesAreThoseOfTheArchitecture) {
  EXPECT_EQ(error_with(kQwen3,
                       [](json& text) {
                         text["layer_types"] = {"full_attention", "full_attention"};
                       }),
            "");
  for (const char* type : {"sliding_attention", "chunked_attention", "linear_attention", "mamba"}) {
    EXPECT_THAT(error_with(kQwen3,
                           [&](json& text) {
                             text["layer_types"] = {"full_attention", type};
                           }),
                AllOf(HasSubstr("layer_types"), HasSubstr(type), HasSubstr("layer 1")));
  }
}

TEST(Refusal, UnknownRotaryEmbeddingsAreNamed) {
  const auto with = [](const char* type) {
    return error_with(kQwen3, [&](json& text) {
      text["rope_parameters"]["rope_type"] = type;
      text["rope_parameters"]["factor"] = 4.0;
      text["rope_parameters"]["original_max_position_embeddings"] = 128;
    });
  };
  EXPECT_EQ(with("yarn"), "");
  EXPECT_THAT(with("longrope"),
              AllOf(HasSubstr("rope_type"), HasSubstr("longrope"), HasSubstr("config.json")));
  EXPECT_THAT(error_with(kQwen3,
                         [](json& text) {
                           text["rope_scaling"] = json{{"factor", 4.0}};
                         }),
              HasSubstr("rope_scaling.factor"));
}

TEST(Refusal, UnknownRouterScoringIsNamed) {
  EXPECT_THAT(error_with(kQwen3, [](json& text) { text["scoring_func"] = "sqrtsoftplus"; }),
              HasSubstr("sqrtsoftplus"));
}

TEST(Refusal, TheActivationOfAllMlpsIsTakenFromHiddenActAlone) {
  for (const char* name : {kQwen35, kQwen3, "qwen3-fp8-block128"}) {
    EXPECT_EQ(error_with(name, [](json& text) { text["hidden_act"] = "gelu_pytorch_tanh"; }), "");
  }
  EXPECT_THAT(
      error_with(kQwen3, [](json& text) { text["hidden_activation"] = "gelu_pytorch_tanh"; }),
      AllOf(HasSubstr("hidden_activation"), HasSubstr("as hidden_act")));
}

TEST(Refusal, BiasesMustBeWhatTheConfigurationSays) {
  EXPECT_THAT(error_with(kQwen3, [](json& text) { text["attention_bias"] = true; }),
              AllOf(HasSubstr("self_attn.q_proj.bias"), HasSubstr("attention_bias")));
  EditableCheckpoint stored(kQwen3);
  const std::vector<float> zeros(64);
  for (int layer = 0; layer < 2; ++layer) {
    const std::string attention = "model.layers." + std::to_string(layer) + ".self_attn.";
    stored.add(attention + "q_proj.bias", {64}, zeros);
    stored.add(attention + "k_proj.bias", {32}, std::vector<float>(32));
    stored.add(attention + "v_proj.bias", {32}, std::vector<float>(32));
  }
  EXPECT_THAT(load_error(stored), HasSubstr("disagree about a bias"));
  stored.config["attention_bias"] = true;
  EXPECT_EQ(load_error(stored), "");
  stored.config.erase("attention_bias");
  EXPECT_EQ(load_error(stored), "");
}

TEST(Refusal, SettingsBesideTheTextConfigAreSeen) {
  EditableCheckpoint checkpoint(kQwen35);
  checkpoint.config["final_logit_softcapping"] = 30;
  EXPECT_THAT(load_error(checkpoint), HasSubstr("final_logit_softcapping"));
  checkpoint.config.erase("final_logit_softcapping");
  checkpoint.config["rope_theta"] = 1e7;
  EXPECT_THAT(load_error(checkpoint), AllOf(HasSubstr("rope_theta"), HasSubstr("text_config")));
  checkpoint.config["text_config"]["rope_theta"] = 1e7;
  EXPECT_EQ(load_error(checkpoint), "");
}

TEST(Refusal, TransformsThatRunWithTheModelAreNamed) {
  const auto with = [](const char* location) {
    EditableCheckpoint checkpoint("qwen3-ct-nvfp4");
    const auto place = [](const char* where) {
      return json{{"targets", {"re:.*down_proj$"}}, {"location", where}, {"inverse", false}};
    };
    checkpoint.config["quantization_config"]["transform_config"] = {
        {"config_groups",
         {{"v", {{"type", "hadamard"}, {"apply", {place("weight_output")}}}},
          {"r4", {{"type", "hadamard"}, {"apply", {place("weight_input"), place(location)}}}}}}};
    return load_error(checkpoint);
  };
  EXPECT_EQ(with("weight_output"), "");
  for (const char* location : {"input", "output", "q_attn", "k_cache", "v_cache", "unheard_of"}) {
    EXPECT_THAT(with(location), AllOf(HasSubstr("transform_config"), HasSubstr(location),
                                      HasSubstr("re:.*down_proj$"), HasSubstr("groups.r4")));
  }
  EditableCheckpoint odd("qwen3-ct-nvfp4");
  for (const json& config : {json("r1"), json{{"groups", 1}}, json{{"config_groups", {{"a", 1}}}},
                             json{{"config_groups", {{"a", {{"apply", {1}}}}}}}}) {
    odd.config["quantization_config"]["transform_config"] = config;
    EXPECT_THAT(load_error(odd), HasSubstr("transform_config"));
  }
  odd.config["quantization_config"]["transform_config"] = json::object();
  EXPECT_EQ(load_error(odd), "");
  odd.config["quantization_config"]["sparsity_config"] = {{"format", "sparse-24-bitmask"}};
  EXPECT_THAT(load_error(odd), HasSubstr("sparse"));
}

TEST(Refusal, TensorsThatNobodyReadsAreCounted) {
  for (const char* extra :
       {"self_attn.sinks", "self_attn.q_proj.pre_scale", "mlp.e_score_correction_bias",
        "mlp.gate.e_score_correction_bias", "input_layernorm.bias", "layer_scalar",
        "mlp.experts.0.up_proj.lora_a", "mlp.experts.router_bias", "self_attn.q_proj.visual"}) {
    EditableCheckpoint checkpoint(kQwen3);
    checkpoint.add("model.layers.0." + std::string(extra), {2}, {1, 1});
    checkpoint.add("model.layers.1." + std::string(extra), {2}, {1, 1});
    EXPECT_THAT(load_error(checkpoint),
                AllOf(HasSubstr("2 tensors"), HasSubstr("model.layers.0." + std::string(extra))));
  }
  for (const char* extra : {"model.extra_norm.weight", "score.weight", "model.norm.bias"}) {
    EditableCheckpoint checkpoint(kQwen3);
    checkpoint.add(extra, {2}, {1, 1});
    EXPECT_THAT(load_error(checkpoint), HasSubstr(extra));
  }
}

// A layout that moe4 knows by name is the first reason, not what it leaves unread.
TEST(Refusal, ForeignLayoutsComeBeforeUnreadTensors) {
  const auto error_after = [](const std::function<std::string(std::string)>& rename) {
    EditableCheckpoint checkpoint(kQwen3);
    checkpoint.rename(rename);
    return load_error(checkpoint);
  };
  EXPECT_THAT(error_after([](const std::string& name) {
                return replaced(name, ".experts.", ".switch_mlp.");
              }),
              AllOf(HasSubstr("MLX layout"), HasSubstr("module model.layers.0.mlp.switch_mlp.*")));
  EXPECT_THAT(error_after([](const std::string& name) {
                return name.ends_with("gate_proj.weight_scale")
                           ? replaced(name, ".weight_scale", ".scales")
                           : name;
              }),
              HasSubstr("MLX layout"));
  for (const auto& [suffix, says] : {std::pair{".qweight", "GPTQ"},
                                     {".weight_g_idx", "activation reordering"},
                                     {".weight.absmax", "bitsandbytes"},
                                     {".pre_quant_scale", "AWQ"}}) {
    for (const char* projection : {"self_attn.q_proj", "mlp.experts.2.up_proj"}) {
      EditableCheckpoint checkpoint(kQwen3);
      const std::string module = std::string("model.layers.0.") + projection;
      if (suffix == std::string_view(".qweight")) checkpoint.tensors.erase(module + ".weight");
      checkpoint.add(module + suffix, {2}, {1, 2});
      checkpoint.add("model.layers.0.a_tensor_nobody_knows", {1}, {1});
      EXPECT_THAT(load_error(checkpoint), AllOf(HasSubstr(says), HasSubstr(module + suffix)));
    }
  }
}

// The same beside 3-D tensors, in both ways to join names.
TEST(Refusal, ForeignTensorsBesideFusedExpertsAreNamed) {
  for (const char* name : {".pre_quant_scale", "_pre_quant_scale", "_weight_zero_point"}) {
    EditableCheckpoint checkpoint("qwen3_5-fused-experts");
    const auto fused =
        std::find_if(checkpoint.tensors.begin(), checkpoint.tensors.end(), [](auto& t) {
          return t.first.find("layers.0.mlp.experts.down_proj") != std::string::npos;
        });
    ASSERT_NE(fused, checkpoint.tensors.end());
    const size_t end = fused->first.find("down_proj") + std::string("down_proj").size();
    const std::string foreign = fused->first.substr(0, end) + name;
    checkpoint.add(foreign, {1}, {1});
    EXPECT_THAT(load_error(checkpoint), AllOf(HasSubstr("are not supported"), HasSubstr(foreign)));
  }
}

TEST(Refusal, MissingExpertsAreNamed) {
  EditableCheckpoint checkpoint(kQwen3);
  std::erase_if(checkpoint.tensors, [](const auto& tensor) {
    return tensor.first.find("layers.1.mlp.experts.") != std::string::npos;
  });
  EXPECT_THAT(load_error(checkpoint),
              AllOf(HasSubstr("experts are missing"), HasSubstr("layers.1.mlp.experts.0.up_proj")));
}

TEST(Refusal, TensorsOfOtherPartsAreNotMissed) {
  EditableCheckpoint checkpoint(kQwen3);
  for (const char* extra :
       {"model.layers.0.self_attn.k_proj.k_scale", "model.layers.1.self_attn.v_scale",
        "model.layers.0.self_attn.v_proj.output_scale",
        "model.layers.1.self_attn.rotary_emb.inv_freq", "model.layers.2.self_attn.sinks",
        "model.visual.blocks.0.norm.weight", "mtp.fc.weight",
        "model.layers.0.self_attn.q_proj.input_scale", "lm_head.weight"}) {
    checkpoint.add(extra, {1}, {1});
  }
  EXPECT_EQ(load_error(checkpoint), "");  // tie_word_embeddings: lm_head is not read
}

TEST(Refusal, MissingTensorsAreNamed) {
  for (const char* missing : {"model.norm.weight", "model.layers.1.self_attn.q_norm.weight",
                              "model.layers.0.mlp.gate.weight", "model.embed_tokens.weight",
                              "model.layers.1.mlp.experts.3.down_proj.weight"}) {
    EditableCheckpoint checkpoint(kQwen3);
    ASSERT_EQ(checkpoint.tensors.erase(missing), 1u);
    EXPECT_THAT(load_error(checkpoint), HasSubstr(missing));
  }
}

TEST(Refusal, AbsentAndUnusableTensorsHaveTheirOwnCodes) {
  const auto code_after = [](const std::function<void(EditableCheckpoint&)>& change) {
    EditableCheckpoint checkpoint(kQwen3);
    change(checkpoint);
    TempDir dir;
    checkpoint.write(dir.path());
    const auto found = refusals(*Checkpoint::open(dir.path(), {.headers_only = true}));
    return found.empty() ? "none" : found.front().code;
  };
  const auto erased = [&](const std::string& part) {
    return code_after([&](EditableCheckpoint& checkpoint) {
      EXPECT_NE(std::erase_if(checkpoint.tensors,
                              [&](const auto& tensor) {
                                return tensor.first.find(part) != std::string::npos;
                              }),
                0u);
    });
  };
  for (const char* part :
       {"layers.1.mlp.experts.", "layers.1.mlp.experts.3.down_proj.weight",
        "layers.0.self_attn.k_proj.", "layers.0.self_attn.k_norm", "mlp.gate."}) {
    EXPECT_EQ(erased(part), "missing-tensor") << part;
  }
  EXPECT_EQ(code_after([](EditableCheckpoint& checkpoint) {
              checkpoint.rename([](const std::string& name) {
                return replaced(name, ".experts.", ".switch_mlp.");
              });
            }),
            "unusable-tensor");
  EXPECT_EQ(code_after([](EditableCheckpoint& checkpoint) {
              checkpoint.add("model.layers.0.self_attn.q_norm.weight", {3}, {1, 1, 1});
            }),
            "unusable-tensor");
  EXPECT_EQ(code_after([](EditableCheckpoint& checkpoint) {
              checkpoint.add("model.layers.0.self_attn.q_proj.weight", {2, 2}, {1, 1, 1, 1});
            }),
            "unusable-tensor");
  EXPECT_EQ(code_after([](EditableCheckpoint& checkpoint) {
              checkpoint.add("model.layers.0.mlp.experts.2.up_proj.pre_quant_scale", {1}, {1});
            }),
            "unusable-tensor");
}

TEST(Refusal, ExpertsThatAreNowhereOrMlxsAreNamed) {
  EditableCheckpoint mlx(kQwen3);
  mlx.rename([](const std::string& name) { return replaced(name, ".experts.", ".switch_mlp."); });
  EXPECT_THAT(load_error(mlx), AllOf(HasSubstr("MLX layout"), HasSubstr("switch_mlp")));
  EditableCheckpoint none(kQwen3);
  std::erase_if(none.tensors, [](const auto& entry) {
    return entry.first.find("layers.1.mlp.experts.") != std::string::npos;
  });
  EXPECT_THAT(load_error(none), AllOf(HasSubstr("experts are missing"), HasSubstr("layers.1.")));
}

TEST(Refusal, AllReasonsAreListedAndCounted) {
  EditableCheckpoint checkpoint(kQwen3);
  checkpoint.add("model.layers.0.self_attn.sinks", {4}, {1, 1, 1, 1});
  checkpoint.add("model.layers.0.layer_scalar", {1}, {1});
  EXPECT_THAT(load_error(checkpoint), HasSubstr("and 1 more"));
}

TEST(Refusal, AnUnknownArchitectureIsTheOnlyReason) {
  EditableCheckpoint checkpoint(kQwen3);
  checkpoint.config["model_type"] = "qwen9_moe";
  checkpoint.config["final_logit_softcapping"] = 30;
  EXPECT_THAT(load_error(checkpoint), AllOf(HasSubstr("unknown architecture"),
                                            HasSubstr("qwen9_moe"), HasSubstr("qwen3_5_moe")));
}

}  // namespace
}  // namespace moe4
