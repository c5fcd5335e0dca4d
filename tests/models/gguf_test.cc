// Models of GGUF files that llama.cpp's own converter wrote (scripts/make_gguf_goldens.py): logits
// and greedy text are those of transformers, or those of the folder that the file was made of.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "models/model.h"
#include "models/refusals.h"
#include "ops/experts/registry.h"
#include "support/golden.h"
#include "support/sequence.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::Golden;
using testing::LogitsFor;
using testing::Sequence;
using testing::TempDir;

fs::path data() { return fs::path(MOE4_TEST_DATA) / "gguf"; }

std::unique_ptr<Model> load(const fs::path& path, ThreadPool& threads, const char* backend) {
  register_builtin_backends();
  const auto checkpoint = Checkpoint::open(path);
  ModelOptions options{.compute_dtype = DType::kF32, .threads = &threads};
  options.moe.backend = backend;
  return Model::load(*checkpoint, options);
}

std::vector<float> logits_of(const fs::path& path, const std::vector<int32_t>& ids) {
  ThreadPool threads(2);
  const auto model = load(path, threads, "reference");
  Sequence sequence(*model, static_cast<int64_t>(ids.size()));
  std::vector<float> logits;
  sequence.forward(ids, LogitsFor::kAllTokens, logits);
  return logits;
}

std::vector<int32_t> greedy_of(const fs::path& path, const std::vector<int32_t>& ids, int count) {
  ThreadPool threads(2);
  const auto model = load(path, threads, "reference");
  Sequence sequence(*model, static_cast<int64_t>(ids.size()) + count);
  std::vector<float> logits;
  std::vector<int32_t> out;
  sequence.forward(ids, LogitsFor::kLastToken, logits);
  for (int i = 0; i < count; ++i) {
    out.push_back(
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    sequence.forward({&out.back(), 1}, LogitsFor::kLastToken, logits);
  }
  return out;
}

// Largest difference as a part of the largest value.
double worst(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, largest = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (std::isnan(a[i])) return INFINITY;
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - b[i]));
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
  }
  return a.size() == b.size() ? difference / largest : INFINITY;
}

class GgufModels : public ::testing::TestWithParam<const char*> {
 protected:
  fs::path file() const { return data() / (std::string(GetParam()) + ".gguf"); }
  Golden golden() const { return Golden(data() / (std::string(GetParam()) + ".safetensors")); }
};

TEST_P(GgufModels, NothingIsRefused) {
  for (const Refusal& refusal : refusals(*Checkpoint::open(file(), {.headers_only = true}))) {
    ADD_FAILURE() << refusal.message;
  }
}

TEST_P(GgufModels, Float32LogitsAreThoseOfTransformers) {
  const std::vector<int32_t> ids = golden().ints("input_ids");
  ASSERT_EQ(ids.size(), 24u);
  const double error = worst(logits_of(file(), ids), golden().floats("logits"));
  RecordProperty("logits_error", std::to_string(error));
  EXPECT_LT(error, 1e-5);
}

TEST_P(GgufModels, GreedyTextIsThatOfTransformers) {
  const std::vector<int32_t> greedy = golden().ints("greedy");
  ASSERT_EQ(greedy.size(), 12u);
  EXPECT_EQ(greedy_of(file(), golden().ints("input_ids"), 12), greedy);
}

INSTANTIATE_TEST_SUITE_P(All, GgufModels,
                         ::testing::Values("deepseek_v3", "deepseek_v32", "deepseek_v4",
                                           "ernie4_5_moe", "gemma4", "gemma4_nvfp4", "glm4_moe",
                                           "glm4_moe_lite", "glm_moe_dsa", "hy_v3", "laguna",
                                           "llama4", "mimo_v2_flash", "minimax_m2", "minimax_m3",
                                           "mistral4", "mixtral", "nemotron_h", "qwen3_5_moe",
                                           "qwen3_moe_quantised", "qwen3_next", "qwen3_vl_moe",
                                           "step3p7"),
                         [](const auto& info) { return std::string(info.param); });

// The prompt of the folder's golden, or any.
std::vector<int32_t> prompt() { return {3, 77, 150, 42, 9, 201, 260, 18, 99, 5, 33, 128}; }

TEST(Gguf, Nvfp4GivesTheLogitsOfTheModelOptFolderBitForBit) {
  EXPECT_EQ(logits_of(data() / "qwen3_moe_nvfp4.gguf", prompt()),
            logits_of(data() / "qwen3_moe_nvfp4", prompt()));
  EXPECT_EQ(greedy_of(data() / "qwen3_moe_nvfp4.gguf", prompt(), 24),
            greedy_of(data() / "qwen3_moe_nvfp4", prompt(), 24));
}

// The first two layers of the folder; the file does not say the limit, which is 7 in all models.
TEST(Gguf, Mxfp4GivesTheLogitsOfTheGptOssFolderBitForBit) {
  const fs::path source = fs::path(MOE4_TEST_DATA) / "checkpoints/gpt_oss-mxfp4";
  TempDir dir;
  fs::copy_file(source / "model.safetensors", dir / "model.safetensors");
  json config = json::parse(std::ifstream(source / "config.json"));
  config["num_hidden_layers"] = 2;
  config["layer_types"].erase(2);
  config["layer_types"].erase(2);
  config["swiglu_limit"] = 7.0;
  std::ofstream(dir / "config.json") << config;
  EXPECT_EQ(logits_of(data() / "gpt_oss_mxfp4.gguf", prompt()), logits_of(dir.path(), prompt()));
  EXPECT_EQ(greedy_of(data() / "gpt_oss_mxfp4.gguf", prompt(), 24),
            greedy_of(dir.path(), prompt(), 24));
}

}  // namespace
}  // namespace moe4
