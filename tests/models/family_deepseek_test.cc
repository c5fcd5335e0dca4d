// DeepSeek-V3.2, GLM-5 and DeepSeek-V4: indexers, streams and hash layers that count, what is
// refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "engine/generator.h"
#include "models/description.h"
#include "models/refusals.h"
#include "numerics/bf16.h"
#include "support/changed_family.h"

namespace moe4 {
namespace {

using nlohmann::json;
using testing::EditableCheckpoint;
using testing::error_after;
using testing::expect_missed;
using testing::expect_refused;
using testing::expect_that_bf16_loses;
using testing::folder_of;
using testing::golden_of;
using ::testing::HasSubstr;
using testing::logits_after;
using testing::plain;
using testing::with;
using testing::worst;

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
  EXPECT_TRUE(std::equal(all.begin(), all.begin() + std::ptrdiff_t{8} * 320, expected.begin()));
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
    c.add("model.layers.2.self_attn.indexer.wk.weight", {32, 64},
          std::vector<float>(size_t{32} * 64, 1));
  };
  EXPECT_EQ(logits_after(kGlm5, with_more), expected);
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
      std::equal(narrow.begin(), narrow.begin() + std::ptrdiff_t{7} * 320, expected.begin()));
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

// Engines ask for the logits of fewer rows than a step has.
TEST(DeepseekV4, AnEngineGeneratesWhatTransformersDoes) {
  ThreadPool threads(2);
  for (const std::string& name : {kV4, std::string("deepseek_v4-mxfp4")}) {
    const auto model = testing::load_float32(folder_of(name), threads);
    GenerateRequest request{.prompt = golden_of(name).ints("input_ids"), .max_new_tokens = 16};
    request.sampling.temperature = 0;
    EXPECT_EQ(generate(*model, nullptr, request).tokens, golden_of(name).ints("greedy")) << name;
  }
}

TEST(DeepseekV4, EveryGpuRunsIt) {
  for (const std::string& name : {kV4, std::string("deepseek_v4-mxfp4")}) {
    const auto checkpoint = Checkpoint::open(folder_of(name), {.headers_only = true});
    EXPECT_THAT(refusals(*checkpoint), ::testing::IsEmpty());
    for (const int sm : {80, 86, 90, 121}) {
      for (const Refusal& refusal : refusals(*checkpoint, Device::cuda_sm(sm))) {
        ADD_FAILURE() << name << " on sm_" << sm << ": " << refusal.message;
      }
    }
    std::string said;
    for (const Refusal& refusal : refusals(*checkpoint, Device::cuda_sm(75))) {
      said += refusal.message + "\n";
    }
    for (const char* op : {"compress_to_cache", "compressed_attention", "mix_streams"}) {
      EXPECT_THAT(said, HasSubstr(op));
    }
  }
}

// With its own experts: a first layer with shared keys of 16 tokens and no indexer, experts by
// token in two layers.
TEST(DeepseekV4, Mxfp4ExpertsOfItsOwnRunAndAreSaid) {
  const auto checkpoint = Checkpoint::open(folder_of("deepseek_v4-mxfp4"), {.headers_only = true});
  const Description description = describe(*checkpoint);
  ASSERT_EQ(description.layers.size(), 3u);
  const auto has = [&](size_t layer, std::string_view role) {
    return std::any_of(description.layers[layer].begin(), description.layers[layer].end(),
                       [&](const OpChoice& op) { return op.role == role; });
  };
  EXPECT_TRUE(has(0, "compress_to_cache") && !has(0, "choose_keys"));
  EXPECT_TRUE(has(1, "compress_to_cache") && has(1, "choose_keys"));
  EXPECT_FALSE(has(2, "compress_to_cache"));
}

}  // namespace
}  // namespace moe4
