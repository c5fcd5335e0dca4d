// What becomes of the keys of Gemma-4 and DeepSeek-V4, whose files say much in tensors, and which
// values are refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_config.h"
#include "gguf/gguf_writer.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using ::testing::AllOf;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::TempDir;

using Numbers = std::map<std::string, uint32_t>;

void add_numbers(GgufWriter& file, const std::string& architecture, Numbers numbers,
                 const Numbers& changed) {
  for (const auto& [key, value] : changed) numbers[key] = value;
  for (const auto& [key, value] : numbers) {
    std::string name = architecture;
    name.append(".").append(key);
    file.u32(name, value);
  }
}

// Two layers, the first with a window; a quarter of the head rotates in the second.
GgufWriter gemma4(const Numbers& changed = {},
                  const std::vector<float>& factors = {1, 1, 1e30f, 1e30f, 1e30f, 1e30f, 1e30f,
                                                       1e30f}) {
  GgufWriter file;
  file.text("general.architecture", "gemma4");
  add_numbers(file, "gemma4",
              {{"block_count", 2},
               {"embedding_length", 32},
               {"feed_forward_length", 48},
               {"attention.head_count", 2},
               {"attention.key_length", 16},
               {"attention.value_length", 16},
               {"attention.key_length_swa", 8},
               {"attention.value_length_swa", 8},
               {"attention.sliding_window", 8},
               {"attention.shared_kv_layers", 0},
               {"embedding_length_per_layer_input", 0},
               {"expert_count", 2},
               {"expert_used_count", 1},
               {"expert_feed_forward_length", 32},
               {"rope.dimension_count", 16},
               {"rope.dimension_count_swa", 8}},
              changed);
  file.i32s("gemma4.attention.sliding_window_pattern", {1, 0});
  file.i32s("gemma4.attention.head_count_kv", {2, 1});
  file.f32("gemma4.rope.freq_base", 1e6f).f32("gemma4.rope.freq_base_swa", 1e4f);
  file.floats("token_embd.weight", {32, 4}, std::vector<float>(128));
  file.floats("blk.0.attn_v.weight", {32, 1}, std::vector<float>(32));
  if (!factors.empty()) file.floats("rope_freqs.weight", {factors.size()}, factors);
  return file;
}

GgufWriter deepseek4(const Numbers& changed = {}, const std::vector<float>& limits = {10, 10, 10}) {
  GgufWriter file;
  file.text("general.architecture", "deepseek4");
  add_numbers(file, "deepseek4",
              {{"block_count", 3},
               {"embedding_length", 32},
               {"attention.head_count", 2},
               {"attention.head_count_kv", 1},
               {"attention.key_length", 32},
               {"attention.value_length", 32},
               {"attention.q_lora_rank", 32},
               {"attention.output_group_count", 2},
               {"attention.output_lora_rank", 32},
               {"attention.sliding_window", 8},
               {"attention.indexer.head_count", 2},
               {"attention.indexer.key_length", 32},
               {"attention.indexer.top_k", 4},
               {"rope.dimension_count", 16},
               {"expert_count", 4},
               {"expert_used_count", 2},
               {"expert_feed_forward_length", 32},
               {"expert_shared_count", 1},
               {"expert_gating_func", 4},
               {"hash_layer_count", 1},
               {"hyper_connection.count", 4},
               {"hyper_connection.sinkhorn_iterations", 20}},
              changed);
  file.i32s("deepseek4.attention.compress_ratios", {0, 4, 128, 0});
  file.f32s("deepseek4.swiglu_clamp_exp", limits);
  file.floats("token_embd.weight", {32, 4}, std::vector<float>(128));
  return file;
}

Json config_of(const GgufWriter& file) {
  TempDir dir;
  file.write(dir / "m.gguf");
  return gguf_config(GgufModel::open(dir / "m.gguf"));
}

std::string error_of(const GgufWriter& file) {
  try {
    (void)config_of(file);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.what(), HasSubstr("m.gguf"));
    return error.what();
  }
  return "";
}

TEST(GgufConfig, Gemma4HasTwoKindsOfHeadsAndRotations) {
  const Json config = config_of(gemma4());
  EXPECT_EQ(config["head_dim"], 8);
  EXPECT_EQ(config["global_head_dim"], 16);
  EXPECT_EQ(config["num_key_value_heads"], 2);
  EXPECT_EQ(config["num_global_key_value_heads"], 1);
  EXPECT_EQ(config["attention_k_eq_v"], true);
  EXPECT_EQ(config["layer_types"], Json({"sliding_attention", "full_attention"}));
  const Json& far = config["rope_parameters"]["full_attention"];
  EXPECT_EQ(far["rope_type"], "proportional");
  EXPECT_EQ(far["partial_rotary_factor"], 0.25);
  EXPECT_EQ(far["rope_theta"], 1e6);
  EXPECT_EQ(config["rope_parameters"]["sliding_attention"]["rope_theta"], 1e4);
}

TEST(GgufConfig, OtherSizesOfGemma4AreRefusedByKey) {
  for (const char* key : {"attention.shared_kv_layers", "embedding_length_per_layer_input"}) {
    EXPECT_THAT(error_of(gemma4({{key, 1}})), HasSubstr(std::string("gemma4.") + key));
  }
}

TEST(GgufConfig, WidthsOfGemma4ThatDoNotFitAreRefusedByKey) {
  for (const auto& [key, value] : Numbers{{"attention.key_length", 0},
                                          {"attention.key_length", 15},
                                          {"attention.value_length", 32},
                                          {"attention.value_length_swa", 0xffffffff},
                                          {"rope.dimension_count", 4},
                                          {"rope.dimension_count_swa", 4}}) {
    EXPECT_NE(error_of(gemma4({{key, value}})).find(key), std::string::npos) << key;
  }
}

TEST(GgufConfig, RotaryFactorsOfGemma4AreOnesThenNever) {
  const std::vector<std::vector<float>> wrong = {{},
                                                 {1, 1, 1, 1},
                                                 {1, 2, 1e30f, 1e30f, 1e30f, 1e30f, 1e30f, 1e30f},
                                                 {1, 1e30f, 1, 1e30f, 1e30f, 1e30f, 1e30f, 1e30f},
                                                 {NAN, 1, 1, 1, 1, 1, 1, 1}};
  for (const std::vector<float>& factors : wrong) {
    EXPECT_THAT(error_of(gemma4({}, factors)),
                AllOf(HasSubstr("rope_freqs.weight"), HasSubstr("8 factors: ones, then 1e30")));
  }
  const Json config = config_of(gemma4({}, std::vector<float>(8, 1.0f)));
  EXPECT_EQ(config["rope_parameters"]["full_attention"]["partial_rotary_factor"], 1.0);
}

TEST(GgufConfig, KeysThatAreNoValuesHaveOneNumberOfHeads) {
  EXPECT_THAT(error_of(gemma4().floats("blk.1.attn_v.weight", {32, 1}, std::vector<float>(32))),
              HasSubstr("gemma4.attention.head_count_kv"));
}

TEST(GgufConfig, DeepseekV4IsTheReleasedFolder) {
  const Json config = config_of(deepseek4());
  EXPECT_EQ(config["num_hidden_layers"], 3);
  EXPECT_EQ(config["compress_ratios"], Json({0, 4, 128}));
  EXPECT_EQ(config["swiglu_limit"], 10.0);
  EXPECT_EQ(config["scoring_func"], "sqrtsoftplus");
  EXPECT_EQ(config["num_hash_layers"], 1);
}

// The decoder's layers are all, where the layer that drafts stands in a file of its own.
TEST(GgufConfig, DraftsThatAreNotInTheFileDoNotCount) {
  const Numbers drafts = {{"nextn_predict_layers", 1}};
  EXPECT_EQ(config_of(deepseek4(drafts))["num_hidden_layers"], 3);
  GgufWriter with = deepseek4(drafts);
  with.floats("blk.2.nextn.eh_proj.weight", {32, 1}, std::vector<float>(32));
  EXPECT_EQ(config_of(with)["num_hidden_layers"], 2);
}

TEST(GgufConfig, ValuesOfDeepseekV4ThatNobodyComputesAreRefusedByKey) {
  EXPECT_THAT(error_of(deepseek4({{"expert_gating_func", 2}})),
              AllOf(HasSubstr("deepseek4.expert_gating_func"), HasSubstr("4 (root of softplus)")));
  EXPECT_THAT(error_of(deepseek4({{"attention.head_count_kv", 2}})),
              HasSubstr("deepseek4.attention.head_count_kv"));
  EXPECT_THAT(error_of(deepseek4({{"attention.value_length", 16}})),
              HasSubstr("deepseek4.attention.value_length"));
  for (const std::vector<float>& limits :
       std::vector<std::vector<float>>{{10, 10, 7}, {NAN, NAN, NAN}, {10}}) {
    EXPECT_THAT(error_of(deepseek4({}, limits)), HasSubstr("deepseek4.swiglu_clamp_exp"));
  }
  EXPECT_THAT(error_of(deepseek4().f32s("deepseek4.swiglu_clamp_shexp", {10, 10, 7})),
              HasSubstr("deepseek4.swiglu_clamp_shexp"));
}

// Block count and table are bounded like those of folders.
TEST(GgufConfig, HostileSizesAreRefusedBeforeTheyAreUsed) {
  TempDir dir;
  for (const char* key : {"hyper_connection.count", "expert_count", "attention.key_length",
                          "attention.output_group_count", "hash_layer_count"}) {
    deepseek4({{key, 0x7fffffff}}).write(dir / "m.gguf");
    try {
      const auto checkpoint = Checkpoint::open(dir / "m.gguf");
      (void)checkpoint->moe_layer_summary(0);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput) << key;
    }
  }
}

}  // namespace
}  // namespace moe4
