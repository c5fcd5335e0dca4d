// DeepSeek-V3 and Kimi-K2 against outputs of the Hugging Face class in float32
// (scripts/make_deepseek_goldens.py), and what their configurations may say.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

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

using testing::LogitsFor;
using testing::Sequence;

using nlohmann::json;
using testing::EditableCheckpoint;
using testing::Golden;
using ::testing::HasSubstr;
using testing::TempDir;
namespace fs = std::filesystem;

const char* const kDeepseek = "deepseek_v3-modelopt-nvfp4";
const char* const kKimi = "kimi_k2-modelopt-nvfp4";
const char* const kNegativeBias = "deepseek_v3-negative-bias";

fs::path folder_of(const char* name) { return fs::path(MOE4_TEST_DATA) / "checkpoints" / name; }
fs::path golden_of(const char* name) { return folder_of(name) / "golden/w4a16.safetensors"; }

std::unique_ptr<Model> load(const fs::path& folder, ThreadPool& threads) {
  register_builtin_backends();
  const auto checkpoint = Checkpoint::open(folder);
  ModelOptions options{.compute_dtype = DType::kF32, .threads = &threads};
  options.moe.backend = "reference";
  return Model::load(*checkpoint, options);
}

std::vector<float> logits_of(const Model& model, std::span<const int32_t> ids, size_t chunk) {
  Sequence sequence(model, static_cast<int64_t>(ids.size()));
  std::vector<float> all, part;
  for (size_t begin = 0; begin < ids.size(); begin += chunk) {
    sequence.forward(ids.subspan(begin, std::min(chunk, ids.size() - begin)), LogitsFor::kAllTokens,
                     part);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

std::vector<float> logits_of(const fs::path& folder, const std::vector<int32_t>& ids) {
  ThreadPool threads(2);
  return logits_of(*load(folder, threads), ids, ids.size());
}

// Largest difference as a part of the largest value.
double worst(std::span<const float> a, std::span<const float> b) {
  double difference = 0, largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - b[i]));
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
  }
  return a.size() == b.size() ? difference / largest : INFINITY;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

class LatentModels : public ::testing::TestWithParam<const char*> {};

TEST_P(LatentModels, Float32LogitsAreThoseOfTransformers) {
  const Golden golden(golden_of(GetParam()));
  const std::vector<int32_t> ids = golden.ints("input_ids");
  ASSERT_EQ(ids.size(), 40u);
  const double error = worst(logits_of(folder_of(GetParam()), ids), golden.floats("logits"));
  RecordProperty("logits_error", std::to_string(error));
  EXPECT_LT(error, 1e-5);
}

TEST_P(LatentModels, GreedyTextIsThatOfTransformers) {
  ThreadPool threads(2);
  const Golden golden(golden_of(GetParam()));
  const auto model = load(folder_of(GetParam()), threads);
  const std::vector<int32_t> ids = golden.ints("input_ids"), greedy = golden.ints("greedy");
  Sequence sequence(*model, static_cast<int64_t>(ids.size() + greedy.size()));
  std::vector<float> logits;
  sequence.forward(ids, LogitsFor::kLastToken, logits);
  for (const int32_t expected : greedy) {
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    ASSERT_EQ(best, expected);
    sequence.forward({&expected, 1}, LogitsFor::kLastToken, logits);
  }
}

TEST_P(LatentModels, PiecesAndSingleStepsHaveTheBitsOfOnePrompt) {
  ThreadPool threads(3);
  const auto model = load(folder_of(GetParam()), threads);
  std::vector<int32_t> ids(100);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>((i * 37 + 5) % 128);
  const std::vector<float> whole = logits_of(*model, ids, ids.size());
  for (const size_t chunk : {1, 7, 64}) {
    EXPECT_TRUE(same_bits(logits_of(*model, ids, chunk), whole)) << "chunk " << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(All, LatentModels, ::testing::Values(kDeepseek, kKimi, kNegativeBias),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Logits of a checkpoint after `change`, and whether they are the unchanged one's bits.
std::vector<float> logits_after(const char* name,
                                const std::function<void(EditableCheckpoint&)>& change) {
  EditableCheckpoint checkpoint(name);
  change(checkpoint);
  TempDir dir;
  checkpoint.write(dir.path());
  return logits_of(dir.path(), Golden(golden_of(name)).ints("input_ids"));
}

TEST(DeepseekV3, SizesThatLatentAttentionDoesNotHaveChangeNothing) {
  const std::vector<float> plain = logits_after(kDeepseek, [](EditableCheckpoint&) {});
  for (const int head_dim : {192, 64, 32}) {
    EXPECT_TRUE(same_bits(logits_after(kDeepseek,
                                       [&](EditableCheckpoint& c) {
                                         c.config["head_dim"] = head_dim;
                                         c.config["num_key_value_heads"] = 2;
                                       }),
                          plain))
        << head_dim;
  }
}

TEST(DeepseekV3, KimisWrapperIsTheSameModel) {
  const std::vector<float> plain = logits_after(kKimi, [](EditableCheckpoint&) {});
  const std::vector<float> wrapped = logits_after(kKimi, [](EditableCheckpoint& c) {
    c.rename([](const std::string& name) { return "language_model." + name; });
    c.add("vision_tower.encoder.blocks.0.wqkv.weight", {2, 2}, {1, 2, 3, 4});
    c.add("mm_projector.proj.0.weight", {2}, {1, 2});
    json text = std::move(c.config);
    c.config = {{"model_type", "kimi_k25"},
                {"architectures", {"KimiK25ForConditionalGeneration"}},
                {"quantization_config", text["quantization_config"]},
                {"vision_config", {{"hidden_size", 8}}}};
    text.erase("quantization_config");
    c.config["text_config"] = std::move(text);
    for (json& pattern : c.config["quantization_config"]["ignore"]) {
      const auto module = pattern.get<std::string>();
      pattern = "language_model." + module;
    }
  });
  EXPECT_TRUE(same_bits(wrapped, plain));
}

TEST(DeepseekV3, TheCorrectionBiasIsReadAsTheFloat32ThatItIs) {
  // The biases lie so close that BF16 makes many of them equal, and the choice another one.
  const EditableCheckpoint checkpoint(kKimi);
  const std::string name = "model.layers.1.mlp.gate.e_score_correction_bias";
  const auto& stored = checkpoint.tensors.at(name);
  ASSERT_EQ(stored.dtype, DType::kF32);
  const std::vector<float> plain = logits_after(kKimi, [](EditableCheckpoint&) {});
  const std::vector<float> rounded = logits_after(kKimi, [&](EditableCheckpoint& c) {
    auto* values = reinterpret_cast<float*>(c.tensors.at(name).bytes.data());
    for (size_t i = 0; i < 16; ++i) values[i] = round_to_bf16(values[i]);
  });
  EXPECT_GT(worst(rounded, plain), 1e-3);
}

std::string error_with(const char* name, const std::function<void(EditableCheckpoint&)>& change) {
  EditableCheckpoint checkpoint(name);
  change(checkpoint);
  TempDir dir;
  checkpoint.write(dir.path());
  std::string message;
  for (const Refusal& refusal : refusals(*Checkpoint::open(dir.path()))) {
    message += refusal.message + "\n";
  }
  ThreadPool threads(1);
  try {
    load(dir.path(), threads);
    EXPECT_EQ(message, "");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_NE(message, "") << error.what();
  }
  return message;
}

TEST(DeepseekV3, WhatIsNotComputedIsRefusedByName) {
  EXPECT_EQ(error_with(kDeepseek, [](EditableCheckpoint&) {}), "");
  const std::pair<const char*, json> settings[] = {
      {"rope_interleave", false}, {"scoring_func", "softmax"}, {"topk_method", "greedy"},
      {"moe_layer_freq", 2},      {"index_topk", 2048},        {"llama_4_scaling_beta", 0.1}};
  for (const auto& [key, value] : settings) {
    EXPECT_THAT(error_with(kDeepseek, [&, key = key, value = value](
                                          EditableCheckpoint& c) { c.config[key] = value; }),
                HasSubstr(key));
  }
  EXPECT_THAT(
      error_with(kDeepseek,
                 [](EditableCheckpoint& c) { c.config["rope_scaling"]["type"] = "longrope"; }),
      HasSubstr("longrope"));
  // Queries without a latent want other tensors.
  EXPECT_THAT(
      error_with(kDeepseek, [](EditableCheckpoint& c) { c.config["q_lora_rank"] = nullptr; }),
      HasSubstr("q_proj"));
  EXPECT_THAT(error_with(kDeepseek,
                         [](EditableCheckpoint& c) {
                           c.tensors.erase("model.layers.1.mlp.gate.e_score_correction_bias");
                         }),
              HasSubstr("e_score_correction_bias"));
  EXPECT_THAT(error_with(kDeepseek,
                         [](EditableCheckpoint& c) {
                           c.add("model.layers.0.self_attn.kv_b_proj.bias", {192},
                                 std::vector<float>(192, 0.5f));
                         }),
              HasSubstr("kv_b_proj"));
}

TEST(DeepseekV3, ADraftLayerIsNamedByItsIndexAndNotRead) {
  const EditableCheckpoint checkpoint(kDeepseek);
  ASSERT_TRUE(checkpoint.tensors.contains("model.layers.3.eh_proj.weight"));
  // The same tensors in a layer of the model are too many.
  EXPECT_THAT(error_with(kDeepseek,
                         [](EditableCheckpoint& c) {
                           c.tensors["model.layers.2.eh_proj.weight"] =
                               c.tensors.at("model.layers.3.eh_proj.weight");
                         }),
              HasSubstr("model.layers.2.eh_proj.weight"));
}

}  // namespace
}  // namespace moe4
