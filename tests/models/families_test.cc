// Families of which a small checkpoint with goldens of transformers lies in tests/data
// (scripts/make_family_goldens.py): float32 logits, the greedy text, and what their configurations
// may say. Layer by layer, in pieces and in batches they are tested with all others: dialect_test,
// decode_test, batch_test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "models/model.h"
#include "models/refusals.h"
#include "numerics/bf16.h"
#include "ops/experts/registry.h"
#include "support/editable_checkpoint.h"
#include "support/golden.h"
#include "support/sequence.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::EditableCheckpoint;
using testing::Golden;
using ::testing::HasSubstr;
using testing::LogitsFor;
using testing::Sequence;
using testing::TempDir;

fs::path folder_of(const std::string& name) {
  return fs::path(MOE4_TEST_DATA) / "checkpoints" / name;
}
Golden golden_of(const std::string& name) {
  return Golden(folder_of(name) / "golden/w4a16.safetensors");
}

std::unique_ptr<Model> load(const fs::path& folder, ThreadPool& threads) {
  register_builtin_backends();
  const auto checkpoint = Checkpoint::open(folder);
  ModelOptions options{.compute_dtype = DType::kF32, .threads = &threads};
  options.moe.backend = "reference";
  return Model::load(*checkpoint, options);
}

std::vector<float> logits_of(const fs::path& folder, const std::vector<int32_t>& ids) {
  ThreadPool threads(2);
  const auto model = load(folder, threads);
  Sequence sequence(*model, static_cast<int64_t>(ids.size()));
  std::vector<float> logits;
  sequence.forward(ids, LogitsFor::kAllTokens, logits);
  return logits;
}

// Largest difference as a part of the largest value.
double worst(std::span<const float> a, std::span<const float> b) {
  double difference = 0, largest = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - b[i]));
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
    if (std::isnan(a[i])) return INFINITY;
  }
  return a.size() == b.size() ? difference / largest : INFINITY;
}

constexpr const char* kFolders[] = {"gemma4-modelopt-nvfp4",        "glm4_moe-modelopt-nvfp4",
                                    "glm4_moe_lite-modelopt-nvfp4", "minimax_m2-modelopt-nvfp4",
                                    "qwen3_next-modelopt-nvfp4",    "qwen3_vl_moe-modelopt-nvfp4",
                                    "mixtral-modelopt-nvfp4",       "hy_v3-ct-nvfp4",
                                    "ernie4_5_moe-modelopt-w4a16",  "mistral4-ct-nvfp4",
                                    "laguna-modelopt-nvfp4",        "minimax_m2-ct-nvfp4",
                                    "llama4-modelopt-nvfp4",        "mimo_v2_flash-modelopt-nvfp4",
                                    "step3p7-modelopt-nvfp4",       "deepseek_v32-modelopt-nvfp4",
                                    "glm_moe_dsa-modelopt-nvfp4",   "minimax_m3-modelopt-mixed",
                                    "deepseek_v4-modelopt-fp8"};

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
  const auto model = load(folder_of(GetParam()), threads);
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

using Change = std::function<void(EditableCheckpoint&)>;

// Logits of a checkpoint after a change.
std::vector<float> logits_after(const std::string& name, const Change& change) {
  EditableCheckpoint checkpoint(name);
  change(checkpoint);
  TempDir dir;
  checkpoint.write(dir.path());
  return logits_of(dir.path(), golden_of(name).ints("input_ids"));
}
Change with(const json& patch) {
  return [patch](EditableCheckpoint& c) { c.config.merge_patch(patch); };
}
std::vector<float> plain(const std::string& name) {
  return logits_after(name, [](EditableCheckpoint&) {});
}

// What refusals() says; "" when nothing is refused.
std::string error_after(const std::string& name, const Change& change) {
  EditableCheckpoint checkpoint(name);
  change(checkpoint);
  TempDir dir;
  checkpoint.write(dir.path());
  std::string message;
  try {
    for (const Refusal& refusal : refusals(*Checkpoint::open(dir.path(), {.headers_only = true}))) {
      message += refusal.message + "\n";
    }
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    message += error.what();
  }
  return message;
}

struct Refused {
  json patch;        // of config.json
  const char* word;  // that the message must have
};

void expect_refused(const std::string& name, const std::vector<Refused>& cases) {
  EXPECT_EQ(error_after(name, [](EditableCheckpoint&) {}), "");
  for (const Refused& c : cases) {
    EXPECT_THAT(error_after(name, with(c.patch)), HasSubstr(c.word)) << c.patch;
  }
}

void expect_missed(const std::string& name, const std::vector<const char*>& tensors) {
  for (const char* tensor : tensors) {
    EXPECT_THAT(
        error_after(
            name, [&](EditableCheckpoint& c) { ASSERT_EQ(c.tensors.erase(tensor), 1u) << tensor; }),
        HasSubstr(tensor));
  }
}

// Correction biases lie so close that BF16 makes some of them equal, and the choice another one.
void expect_that_bf16_loses(const std::string& name, const std::string& bias, size_t experts) {
  const auto round = [&](EditableCheckpoint& c) {
    ASSERT_EQ(c.tensors.at(bias).dtype, DType::kF32);
    auto* values = reinterpret_cast<float*>(c.tensors.at(bias).bytes.data());
    for (size_t i = 0; i < experts; ++i) values[i] = round_to_bf16(values[i]);
  };
  EXPECT_GT(worst(logits_after(name, round), plain(name)), 1e-3);
}

// ---- Gemma-4

const std::string kGemma = "gemma4-modelopt-nvfp4";
const std::string kGemmaLayers = "model.language_model.layers.";

Change with_text(const json& patch) { return with({{"text_config", patch}}); }

// A tensor of one layer, its BF16 elements replaced.
Change with_elements(const std::string& name, float value) {
  return [=](EditableCheckpoint& c) {
    std::vector<std::byte>& bytes = c.tensors.at(kGemmaLayers + name).bytes;
    auto* elements = reinterpret_cast<Bf16*>(bytes.data());
    std::fill_n(elements, bytes.size() / sizeof(Bf16), to_bf16(value));
  };
}

TEST(Gemma4, TheCapTheWindowAndTheTwoRotationsCount) {
  const std::vector<float> expected = plain(kGemma);
  for (const float logit : expected) ASSERT_LT(std::abs(logit), 30.0f);
  const auto moved = [&](const Change& change) {
    return worst(logits_after(kGemma, change), expected);
  };
  EXPECT_GT(moved(with_text({{"final_logit_softcapping", nullptr}})), 1e-3);
  EXPECT_GT(moved(with_text({{"sliding_window", 9}})), 1e-3);
  const auto rope = [](const json& patch) { return with_text({{"rope_parameters", patch}}); };
  EXPECT_GT(moved(rope({{"sliding_attention", {{"rope_theta", 1e6}}}})), 1e-3);
  EXPECT_GT(moved(rope({{"full_attention", {{"rope_theta", 1e4}}}})), 1e-4);
  EXPECT_GT(moved(rope({{"full_attention", {{"partial_rotary_factor", 1.0}}}})), 1e-4);
}

TEST(Gemma4, EveryNormAndScaleOfALayerCounts) {
  const std::vector<float> expected = plain(kGemma);
  for (const char* name :
       {"1.layer_scalar", "1.router.scale", "1.router.per_expert_scale",
        "1.pre_feedforward_layernorm.weight", "1.pre_feedforward_layernorm_2.weight",
        "1.post_feedforward_layernorm.weight", "1.post_feedforward_layernorm_1.weight",
        "1.post_feedforward_layernorm_2.weight", "1.post_attention_layernorm.weight",
        "1.input_layernorm.weight", "1.self_attn.q_norm.weight", "2.self_attn.k_norm.weight"}) {
    EXPECT_GT(worst(logits_after(kGemma, with_elements(name, 1.5f)), expected), 1e-4) << name;
  }
}

TEST(Gemma4, LayersWithoutAWindowHaveNoValuesOfTheirOwn) {
  EXPECT_THAT(error_after(kGemma, with_text({{"attention_k_eq_v", false}})), HasSubstr("v_proj"));
  EXPECT_THAT(error_after(kGemma,
                          [](EditableCheckpoint& c) {
                            c.add(kGemmaLayers + "2.self_attn.v_proj.weight", {32, 96},
                                  std::vector<float>(32 * 96, 0.5f));
                          }),
              HasSubstr("2.self_attn.v_proj"));
}

TEST(Gemma4, WhatIsNotComputedIsRefusedByName) {
  const auto text = [](const json& patch) { return json{{"text_config", patch}}; };
  expect_refused(kGemma,
                 {{text({{"hidden_size_per_layer_input", 256}}), "hidden_size_per_layer_input"},
                  {text({{"num_kv_shared_layers", 2}}), "num_kv_shared_layers"},
                  {text({{"use_double_wide_mlp", true}}), "use_double_wide_mlp"},
                  {text({{"enable_moe_block", false}}), "enable_moe_block"},
                  {text({{"use_bidirectional_attention", "all"}}), "use_bidirectional_attention"},
                  {text({{"attention_bias", true}}), "attention_bias"},
                  {text({{"layer_types", {"sliding_attention", "full_attention", "linear"}}}),
                   "layer_types"}});
  expect_missed(kGemma, {"model.language_model.layers.0.layer_scalar",
                         "model.language_model.layers.1.router.scale",
                         "model.language_model.layers.1.router.per_expert_scale",
                         "model.language_model.layers.0.post_attention_layernorm.weight",
                         "model.language_model.layers.2.pre_feedforward_layernorm_2.weight",
                         "model.language_model.layers.0.mlp.gate_proj.weight"});
}

// ---- GLM-4.5 to 4.7, 4.7-Flash

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
  EXPECT_TRUE(std::equal(all.begin(), all.begin() + std::ptrdiff_t{16 * 320}, expected.begin()));
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

TEST(MinimaxM3, NoGpuChoosesBlocksAndThatIsSaid) {
  const auto checkpoint = Checkpoint::open(folder_of(kM3), {.headers_only = true});
  EXPECT_THAT(refusals(*checkpoint), ::testing::IsEmpty());
  std::string said;
  for (const Refusal& refusal : refusals(*checkpoint, Device::cuda_sm(90))) {
    said += refusal.message + "\n";
  }
  for (const char* op : {"qkv_to_cache", "choose_blocks", "block_attention"}) {
    EXPECT_THAT(said, HasSubstr(op));
  }
}

// ---- Qwen3-Next

const std::string kNext = "qwen3_next-modelopt-nvfp4";

TEST(Qwen3Next, LayersHaveTwoSpellings) {
  const json types = {"linear_attention", "full_attention", "linear_attention"};
  const json listed = {{"full_attention_interval", nullptr}, {"layer_types", types}};
  EXPECT_EQ(logits_after(kNext, with(listed)), plain(kNext));
}

// Rows of in_proj_qkvz with two value heads a key head of width 16: [q k v v z z] twice.
TEST(Qwen3Next, ProjectionsAreGroupedByKeyHead) {
  const auto swap_groups = [](EditableCheckpoint& c) {
    const auto swap = [&](const std::string& name, size_t rows) {
      std::vector<std::byte>& bytes = c.tensors.at("model.layers.0.linear_attn." + name).bytes;
      const auto middle = bytes.begin() + static_cast<std::ptrdiff_t>(bytes.size() / 2);
      EXPECT_EQ(c.tensors.at("model.layers.0.linear_attn." + name).shape[0],
                static_cast<int64_t>(rows));
      std::rotate(bytes.begin(), middle, bytes.end());
    };
    swap("in_proj_qkvz.weight", 192);
    swap("in_proj_ba.weight", 8);
    swap("A_log", 4);
    swap("dt_bias", 4);
    // Channels of the convolution: q, k and v apart, each by head.
    for (const auto& [first, count] : {std::pair(0, 32), std::pair(32, 32), std::pair(64, 64)}) {
      std::vector<std::byte>& bytes =
          c.tensors.at("model.layers.0.linear_attn.conv1d.weight").bytes;
      const auto row = static_cast<std::ptrdiff_t>(bytes.size() / 128);
      std::rotate(bytes.begin() + first * row, bytes.begin() + (first + count / 2) * row,
                  bytes.begin() + (first + count) * row);
    }
    // Columns of the output projection, by value head.
    auto& out = c.tensors.at("model.layers.0.linear_attn.out_proj.weight");
    const auto row = static_cast<std::ptrdiff_t>(out.bytes.size()) / out.shape[0];
    for (auto at = out.bytes.begin(); at != out.bytes.end(); at += row) {
      std::rotate(at, at + row / 2, at + row);
    }
  };
  // The same delta net with its key heads in another order.
  EXPECT_LT(worst(logits_after(kNext, swap_groups), plain(kNext)), 1e-5);
}

TEST(Qwen3Next, WhatIsNotComputedIsRefusedByName) {
  expect_refused(
      kNext, {{{{"attention_bias", true}}, "attention_bias"},
              {{{"attn_output_gate", false}}, "attn_output_gate"},
              {{{"layer_types", {"linear_attention", "full_attention", "mamba"}}}, "layer_types"},
              {{{"mlp_only_layers", json::array()}}, "model.layers.2.mlp"},
              {{{"decoder_sparse_step", 2}}, "model.layers.0.mlp"},
              {{{"linear_num_key_heads", 3}}, "linear_num"},
              {{{"linear_value_head_dim", 1 << 20}}, "in_proj_qkvz"},
              {{{"linear_key_head_dim", 1 << 21}}, "linear_key_head_dim"}});
  expect_missed(kNext, {"model.layers.0.linear_attn.in_proj_ba.weight",
                        "model.layers.1.mlp.shared_expert_gate.weight"});
}

// ---- Qwen3-VL

const std::string kVl = "qwen3_vl_moe-modelopt-nvfp4";

TEST(Qwen3VlMoe, TextAloneIsQwen3Moe) {
  const std::vector<float> expected = plain(kVl);
  const auto unwrapped = [](EditableCheckpoint& c) {
    c.rename([](const std::string& name) {
      return testing::replaced(name, "model.language_model.", "model.");
    });
    json text = c.config["text_config"];
    text["model_type"] = "qwen3_moe";
    c.config = std::move(text);
  };
  EXPECT_EQ(logits_after(kVl, unwrapped), expected);
  // Weights are divided by their sum whether the file says so or not.
  EXPECT_EQ(logits_after(kVl, with({{"text_config", {{"norm_topk_prob", nullptr}}}})), expected);
  EXPECT_THAT(error_after(kVl, with({{"text_config", {{"norm_topk_prob", false}}}})),
              HasSubstr("norm_topk_prob"));
}

// ---- Mixtral

const std::string kMixtralName = "mixtral-modelopt-nvfp4";

TEST(Mixtral, AWindowIsOfAllLayersWhereTheFileHasOne) {
  const std::vector<float> expected = plain(kMixtralName);
  for (const json& window : {json(7), json(9), json(nullptr)}) {
    EXPECT_GT(worst(logits_after(kMixtralName, with({{"sliding_window", window}})), expected), 1e-3)
        << window;
  }
  expect_refused(kMixtralName, {{{{"attention_bias", true}}, "attention_bias"},
                                {{{"rope_scaling", {{"type", "dynamic"}}}}, "dynamic"},
                                {{{"num_local_experts", 9}}, "experts"}});
  expect_missed(kMixtralName, {"model.layers.1.block_sparse_moe.gate.weight"});
}

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

// ---- Mistral-Small-4

const std::string kMistral = "mistral4-ct-nvfp4";

// A patch of the text model's rotary embedding.
json rope(const json& patch) { return {{"text_config", {{"rope_parameters", patch}}}}; }

TEST(Mistral4, TheTemperatureHasTwoSpellings) {
  const std::vector<float> expected = plain(kMistral);
  json own = rope({{"llama_4_scaling_beta", nullptr}});
  own["text_config"]["llama_4_scaling"] = {{"beta", 0.1}, {"original_max_position_embeddings", 16}};
  EXPECT_EQ(logits_after(kMistral, with(own)), expected);
  // The first 16 positions have none, the others another one.
  const std::vector<float> other =
      logits_after(kMistral, with(rope({{"llama_4_scaling_beta", 0.2}})));
  const auto first = static_cast<std::ptrdiff_t>(16 * 320);
  EXPECT_TRUE(std::equal(other.begin(), other.begin() + first, expected.begin()));
  EXPECT_GT(worst(std::span(other).subspan(first), std::span(expected).subspan(first)), 1e-3);
}

TEST(Mistral4, WhatIsNotComputedIsRefusedByName) {
  const auto text = [](const json& patch) { return json{{"text_config", patch}}; };
  expect_refused(
      kMistral,
      {{rope({{"llama_4_scaling_beta", nullptr}}), "llama_4_scaling_beta"},
       {rope({{"partial_rotary_factor", 1.0}}), "partial_rotary_factor"},
       {text({{"llama_4_scaling", {{"beta", 0.3}, {"original_max_position_embeddings", 16}}}}),
        "llama_4_scaling"},
       {text({{"n_group", 2}}), "n_group"},
       {text({{"scoring_func", "sigmoid"}}), "scoring_func"},
       {text({{"first_k_dense_replace", 1}}), "layers.0.mlp"}});
}

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

// ---- Llama-4

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

// ---- DeepSeek-V3.2, GLM-5

const std::string kV32 = "deepseek_v32-modelopt-nvfp4", kGlm5 = "glm_moe_dsa-modelopt-nvfp4";

TEST(DeepseekV32, TheChoiceOfKeysAndItsRotationCount) {
  const std::vector<float> expected = plain(kV32);
  const json patches[] = {{{"index_topk", 7}},
                          {{"index_topk", 2048}},
                          {{"indexer_rope_interleave", true}},
                          {{"rope_scaling", {{"mscale_all_dim", 0.5}}}}};
  for (const json& patch : patches) {
    EXPECT_GT(worst(logits_after(kV32, with(patch)), expected), 1e-3) << patch;
  }
  EXPECT_EQ(logits_after(kV32, with({{"indexer_rope_interleave", false}})), expected);
  // The first eight tokens attend to all keys.
  const std::vector<float> all = logits_after(kV32, with({{"index_topk", 2048}}));
  EXPECT_TRUE(std::equal(all.begin(), all.begin() + std::ptrdiff_t{8 * 320}, expected.begin()));
}

TEST(DeepseekV32, WhatIsNotComputedIsRefusedByName) {
  const json types = {"indexed_attention", "full_attention", "indexed_attention"};
  expect_refused(kV32, {{{{"layer_types", types}}, "layer_types"},
                        {{{"index_topk_freq", 4}}, "index_topk_freq"},
                        {{{"index_n_heads", 6}}, "indexer"},
                        {{{"q_lora_rank", nullptr}}, "q_lora_rank"},
                        {{{"rope_interleave", false}}, "rope_interleave"}});
  expect_missed(kV32, {"model.layers.0.self_attn.indexer.k_norm.bias",
                       "model.layers.1.self_attn.indexer.wq_b.weight",
                       "model.layers.2.self_attn.indexer.weights_proj.weight"});
}

TEST(DeepseekV32, GpusChooseKeysToo) {
  for (const std::string& name : {kV32, kGlm5}) {
    const auto checkpoint = Checkpoint::open(folder_of(name), {.headers_only = true});
    EXPECT_THAT(refusals(*checkpoint), ::testing::IsEmpty());
    for (const int sm : {80, 90, 120, 121}) {
      EXPECT_THAT(refusals(*checkpoint, Device::cuda_sm(sm)), ::testing::IsEmpty());
    }
  }
}

TEST(GlmMoeDsa, TheIndexerTurnsPairsAndALayerMayShareAChoice) {
  const std::vector<float> expected = plain(kGlm5);
  EXPECT_GT(worst(logits_after(kGlm5, with({{"indexer_rope_interleave", false}})), expected), 1e-3);
  const json patches[] = {
      {{"indexer_types", nullptr}, {"index_topk_pattern", "FFSF"}},
      {{"indexer_types", nullptr}, {"index_topk_pattern", {"full", "full", "shared", "full"}}},
      {{"indexer_types", nullptr}, {"index_topk_freq", 2}},
      {{"indexer_rope_interleave", nullptr}, {"head_dim", 64}}};
  for (const json& patch : patches) {
    EXPECT_EQ(logits_after(kGlm5, with(patch)), expected) << patch;
  }
  // Files may have tensors of an indexer that nobody asks.
  const auto with_more = [](EditableCheckpoint& c) {
    c.add("model.layers.2.self_attn.indexer.wk.weight", {32, 64}, std::vector<float>(32 * 64, 1));
  };
  EXPECT_EQ(logits_after(kGlm5, with_more), expected);
}

// ---- DeepSeek-V4

const std::string kV4 = "deepseek_v4-modelopt-fp8";

TEST(DeepseekV4, WindowsRatiosStreamsAndRotationsCount) {
  const std::vector<float> expected = plain(kV4);
  const json patches[] = {
      {{"sliding_window", 7}},     {{"sliding_window", 9}},
      {{"index_topk", 3}},         {{"index_topk", 512}},
      {{"rope_theta", 5e4}},       {{"compress_rope_theta", 1e4}},
      {{"rope_scaling", nullptr}}, {{"rope_scaling", {{"attention_factor", 1.2}}}},
      {{"hc_sinkhorn_iters", 1}},  {{"hc_eps", 0.1}},
      {{"swiglu_limit", 10.0}},    {{"routed_scaling_factor", 1.0}},
      {{"norm_topk_prob", false}}, {{"rms_norm_eps", 0.1}}};
  for (const json& patch : patches) {
    EXPECT_GT(worst(logits_after(kV4, with(patch)), expected), 1e-3) << patch;
  }
  // The compressor's bias has a row a token.
  EXPECT_THAT(error_after(kV4, with({{"compress_ratios", {0, 4, 16, 4, 0}}})),
              HasSubstr("layers.2.attn.compressor.ape"));
  // The first seven tokens see the same keys with a window of one less.
  const std::vector<float> narrow = logits_after(kV4, with({{"sliding_window", 7}}));
  EXPECT_TRUE(
      std::equal(narrow.begin(), narrow.begin() + std::ptrdiff_t{7 * 320}, expected.begin()));
}

TEST(DeepseekV4, EveryTensorOfALayerCounts) {
  const std::vector<float> expected = plain(kV4);
  for (const char* name :
       {"layers.0.attn.attn_sink", "layers.1.attn.q_norm.weight", "layers.1.attn.kv_norm.weight",
        "layers.1.attn.compressor.ape", "layers.1.attn.compressor.norm.weight",
        "layers.1.attn.compressor.wgate.weight", "layers.1.attn.indexer.compressor.ape",
        "layers.1.attn.indexer.compressor.norm.weight", "layers.1.attn.indexer.weights_proj.weight",
        "layers.2.attn.compressor.wkv.weight", "layers.3.hc_attn_fn", "layers.3.hc_attn_base",
        "layers.3.hc_ffn_scale", "hc_head_fn", "hc_head_base", "hc_head_scale"}) {
    const auto halved = [&](EditableCheckpoint& c) {
      ASSERT_TRUE(c.tensors.contains(name)) << name;
      auto& tensor = c.tensors.at(name);
      const size_t size = static_cast<size_t>(size_of(tensor.dtype));
      for (size_t i = 0; i < tensor.bytes.size() / size; i += 2) {
        std::byte* at = tensor.bytes.data() + i * size;
        if (tensor.dtype == DType::kF32) {
          *reinterpret_cast<float*>(at) *= -0.5f;
        } else {
          auto* element = reinterpret_cast<Bf16*>(at);
          *element = to_bf16(to_float(*element) * -0.5f);
        }
      }
    };
    EXPECT_GT(worst(logits_after(kV4, halved), expected), 1e-4) << name;
  }
}

TEST(DeepseekV4, TheExpertsOfTheFirstLayerAreThoseOfTheToken) {
  const std::vector<int32_t> ids = golden_of(kV4).ints("input_ids");
  const std::vector<float> expected = plain(kV4);
  const auto with_table = [&](int64_t token, int64_t expert) {
    return [=](EditableCheckpoint& c) {
      auto& table = c.tensors.at("layers.0.ffn.gate.tid2eid");
      reinterpret_cast<int64_t*>(table.bytes.data())[token * 4] = expert;
    };
  };
  int64_t absent = 0;
  while (std::find(ids.begin(), ids.end(), absent) != ids.end()) ++absent;
  EXPECT_EQ(logits_after(kV4, with_table(absent, 3)), expected);
  // Of two experts one at least is another than before.
  const double either = std::max(worst(logits_after(kV4, with_table(ids[5], 3)), expected),
                                 worst(logits_after(kV4, with_table(ids[5], 4)), expected));
  EXPECT_GT(either, 1e-3);
  const auto beyond = [&](EditableCheckpoint& c) { with_table(0, 16)(c); };
  try {
    (void)logits_after(kV4, beyond);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("layers.0.ffn.gate.tid2eid"));
  }
}

TEST(DeepseekV4, ConfigurationsHaveTwoSpellings) {
  const std::vector<float> expected = plain(kV4);
  const json csa = "compressed_sparse_attention", hca = "heavily_compressed_attention";
  const json of_transformers = {
      {"compress_ratios", nullptr},
      {"layer_types", {"sliding_attention", csa, hca, csa}},
      {"compress_rates", {{"compressed_sparse_attention", 4}, {"heavily_compressed_attention", 8}}},
      {"num_hash_layers", nullptr},
      {"mlp_layer_types", {"hash_moe", "moe", "moe", "moe"}},
      {"qk_rope_head_dim", nullptr},
      {"partial_rotary_factor", 0.5},
      {"rope_theta", nullptr},
      {"compress_rope_theta", nullptr},
      {"rope_scaling", nullptr},
      {"rope_parameters",
       {{"main", {{"rope_type", "default"}, {"rope_theta", 1e4}, {"partial_rotary_factor", 0.5}}},
        {"compress",
         {{"rope_type", "yarn"},
          {"rope_theta", 160000.0},
          {"partial_rotary_factor", 0.5},
          {"factor", 16.0},
          {"original_max_position_embeddings", 64},
          {"beta_fast", 32},
          {"beta_slow", 1},
          {"attention_factor", 1.0}}}}}};
  EXPECT_EQ(logits_after(kV4, with(of_transformers)), expected);
}

TEST(DeepseekV4, TheCorrectionBiasIsReadAsTheFloat32ThatItIs) {
  expect_that_bf16_loses(kV4, "layers.1.ffn.gate.bias", 16);
}

TEST(DeepseekV4, WhatIsNotComputedIsRefusedByName) {
  expect_refused(kV4, {{{{"compress_ratios", {0, 4, 24, 4, 0}}}, "compress_ratios"},
                       {{{"scoring_func", "sigmoid"}}, "scoring_func"},
                       {{{"topk_method", "greedy"}}, "topk_method"},
                       {{{"num_key_value_heads", 2}}, "num_key_value_heads"},
                       {{{"attention_bias", true}}, "attention_bias"},
                       {{{"o_groups", 3}}, "num_attention_heads"},
                       {{{"hc_mult", 2}}, "layers.0.hc_attn_fn"},
                       {{{"num_hash_layers", 2}}, "layers.1.ffn.gate.tid2eid"},
                       {{{"compress_ratios", {4, 4, 8, 4, 0}}}, "layers.0.attn.compressor"},
                       {{{"compress_ratios", {0, 4, 8, 0, 0}}}, "layers.3.attn.compressor"},
                       {{{"hidden_act", "gelu"}}, "hidden_act"}});
  expect_missed(kV4, {"layers.0.attn.attn_sink", "layers.1.attn.indexer.wq_b.weight",
                      "layers.2.attn.compressor.norm.weight", "layers.3.hc_ffn_base",
                      "hc_head_scale", "layers.1.ffn.gate.bias", "layers.0.attn.wo_a.weight",
                      "layers.1.ffn.shared_experts.w3.weight"});
}

TEST(DeepseekV4, NoGpuRunsItAndThatIsSaid) {
  const auto checkpoint = Checkpoint::open(folder_of(kV4), {.headers_only = true});
  EXPECT_THAT(refusals(*checkpoint), ::testing::IsEmpty());
  std::string said;
  for (const Refusal& refusal : refusals(*checkpoint, Device::cuda_sm(90))) {
    said += refusal.message + "\n";
  }
  for (const char* op : {"qkv_to_cache", "compress_to_cache", "compressed_attention", "mix_streams",
                         "rotary_angles", "route"}) {
    EXPECT_THAT(said, HasSubstr(op));
  }
}

TEST(GlmMoeDsa, WhatIsNotComputedIsRefusedByName) {
  expect_refused(
      kGlm5,
      {{{{"indexer_types", {"full", "full", "full", "full"}}}, "model.layers.2.self_attn.indexer"},
       {{{"indexer_types", {"shared", "full", "full", "full"}}}, "indexer_types"},
       {{{"indexer_types", {"full", "none", "shared", "full"}}}, "indexer_types"},
       {{{"indexer_types", nullptr}, {"index_topk_pattern", "FX"}}, "index_topk_pattern"},
       {{{"topk_method", "greedy"}}, "topk_method"}});
  expect_missed(kGlm5, {"model.layers.3.self_attn.indexer.wk.weight",
                        "model.layers.1.mlp.gate.e_score_correction_bias"});
}

}  // namespace
}  // namespace moe4
