// Nemotron-H against transformers, in every spelling of its configuration. Layer by layer, batched
// and cut into pieces it is tested with all others: dialect_test, batch_test, decode_test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <numeric>

#include "models/model.h"
#include "models/refusals.h"
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

const char* const kFolders[] = {"nemotron_h-nano", "nemotron_h-super"};

fs::path folder_of(const char* name) { return fs::path(MOE4_TEST_DATA) / "checkpoints" / name; }

std::unique_ptr<Model> load(const fs::path& folder, ThreadPool& threads, DType dtype = DType::kF32,
                            const char* backend = "") {
  register_builtin_backends();
  const auto checkpoint = Checkpoint::open(folder);
  ModelOptions options{.compute_dtype = dtype, .threads = &threads};
  options.moe.backend = backend;
  return Model::load(*checkpoint, options);
}

// The largest difference, of the largest value.
double largest_error(std::span<const float> found, std::span<const float> expected) {
  EXPECT_EQ(found.size(), expected.size());
  double difference = 0, largest = 0;
  for (size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    difference = std::fmax(difference, std::abs(double{found[i]} - expected[i]));
    largest = std::fmax(largest, std::abs(double{expected[i]}));
    if (std::isnan(found[i])) return INFINITY;
  }
  return difference / largest;
}

int32_t argmax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST(NemotronH, LogitsAndGreedyTokensAreThoseOfTransformers) {
  for (const char* name : kFolders) {
    for (const char* backend : {"reference", "cpu"}) {
      SCOPED_TRACE(std::string(name) + " " + backend);
      ThreadPool threads(2);
      const Golden golden(folder_of(name) / "golden/w4a16.safetensors");
      const auto model = load(folder_of(name), threads, DType::kF32, backend);
      const std::vector<int32_t> ids = golden.ints("input_ids");
      std::vector<int32_t> greedy;
      Sequence sequence(*model, static_cast<int64_t>(ids.size()) + 16);
      std::vector<float> logits;
      sequence.forward(ids, LogitsFor::kAllTokens, logits);
      EXPECT_LT(largest_error(logits, golden.floats("logits")), 1e-5);
      while (greedy.size() < 16) {
        const auto vocab = static_cast<size_t>(model->config().vocab_size);
        greedy.push_back(argmax(std::span(logits).last(vocab)));
        sequence.forward({&greedy.back(), 1}, LogitsFor::kLastToken, logits);
      }
      EXPECT_EQ(greedy, golden.ints("greedy"));
    }
  }
}

// Some logits of a checkpoint with changes to its configuration and tensors.
using Change = std::function<void(EditableCheckpoint&)>;
std::vector<float> logits_with(const Change& change) {
  EditableCheckpoint editable("nemotron_h-super");
  change(editable);
  TempDir dir;
  editable.write(dir.path());
  ThreadPool threads(1);
  const auto model = load(dir.path(), threads);
  const std::vector<int32_t> ids = {1, 2, 3, 300, 5, 40, 7};
  Sequence sequence(*model, static_cast<int64_t>(ids.size()));
  std::vector<float> logits;
  sequence.forward(ids, LogitsFor::kAllTokens, logits);
  return logits;
}
std::vector<float> logits_with_config(const json& patch) {
  return logits_with([&](EditableCheckpoint& c) { c.config.merge_patch(patch); });
}

TEST(NemotronH, LayersHaveNamesOfTwoGenerationsAndAPattern) {
  const std::vector<float> expected = logits_with_config(json::object());
  const json none = nullptr;
  const json spellings[] = {
      {{"layers_block_type", {"mamba", "moe", "mamba", "attention", "moe", "mamba", "mlp"}}},
      {{"layers_block_type", none}, {"hybrid_override_pattern", "MEM*EM-"}},
      {{"layers_block_type", none}, {"hybrid_override_pattern", "|MEM*|EM-|"}},
      // The draft layers' entries behind the model's own.
      {{"layers_block_type", none},
       {"hybrid_override_pattern", "MEM*EM-*"},
       {"num_hidden_layers", 7}},
      {{"layers_block_type",
        {"linear_attention", "moe", "linear_attention", "full_attention", "moe", "linear_attention",
         "mlp", "full_attention"}},
       {"num_hidden_layers", 7}}};
  for (const json& patch : spellings) EXPECT_EQ(logits_with_config(patch), expected) << patch;
}

TEST(NemotronH, StepsAreClampedByTimeStepLimitAlone) {
  const json infinite = {{"__float__", "Infinity"}};
  const std::vector<float> limited = logits_with_config(json::object());
  const std::vector<float> free = logits_with_config({{"time_step_limit", nullptr}});
  EXPECT_NE(free, limited);
  for (const json& upper : {json(1e308), json("Infinity"), infinite}) {
    EXPECT_EQ(logits_with_config({{"time_step_limit", {0.0, upper}}}), free) << upper;
  }
  EXPECT_NE(logits_with_config({{"time_step_limit", {0.15, infinite}}}), limited);
  EXPECT_NE(logits_with_config({{"time_step_limit", {0.0, 0.9}}}), limited);
  // Those are about initialisation.
  EXPECT_EQ(logits_with_config({{"time_step_min", 0.5}, {"time_step_max", 0.6}}), limited);
}

TEST(NemotronH, AttentionHasNoRotaryEmbedding) {
  const std::vector<float> expected = logits_with_config(json::object());
  EXPECT_EQ(logits_with_config({{"rope_theta", 5e6}, {"partial_rotary_factor", 0.5}}), expected);
}

TEST(NemotronH, EveryTensorIsHeard) {
  const std::vector<float> expected = logits_with_config(json::object());
  for (const char* name : {"embeddings.weight",
                           "layers.0.norm.weight",
                           "layers.0.mixer.conv1d.weight",
                           "layers.0.mixer.conv1d.bias",
                           "layers.0.mixer.A_log",
                           "layers.0.mixer.D",
                           "layers.0.mixer.dt_bias",
                           "layers.0.mixer.norm.weight",
                           "layers.0.mixer.in_proj.weight",
                           "layers.0.mixer.out_proj.weight",
                           "layers.1.mixer.gate.weight",
                           "layers.1.mixer.gate.e_score_correction_bias",
                           "layers.1.mixer.fc1_latent_proj.weight",
                           "layers.1.mixer.fc2_latent_proj.weight",
                           "layers.1.mixer.shared_experts.up_proj.weight",
                           "layers.1.mixer.shared_experts.down_proj.weight",
                           "layers.3.mixer.v_proj.weight",
                           "layers.6.mixer.up_proj.weight",
                           "layers.6.mixer.down_proj.weight",
                           "norm_f.weight"}) {
    const auto reverse = [&](EditableCheckpoint& c) {
      std::vector<std::byte>& bytes = c.tensors.at(std::string("backbone.") + name).bytes;
      const size_t size = size_of(c.tensors.at(std::string("backbone.") + name).dtype);
      for (size_t i = 0, j = bytes.size() - size; i < j; i += size, j -= size) {
        std::swap_ranges(&bytes[i], &bytes[i] + size, &bytes[j]);
      }
    };
    EXPECT_NE(logits_with(reverse), expected) << name;
  }
}

// What refusals() says first; "" when nothing is refused.
std::string refusal_with(const Change& change) {
  EditableCheckpoint editable("nemotron_h-super");
  change(editable);
  TempDir dir;
  editable.write(dir.path());
  const std::vector<Refusal> found =
      refusals(*Checkpoint::open(dir.path(), {.headers_only = true}));
  return found.empty() ? "" : found.front().message;
}

TEST(NemotronH, WhatIsNotComputedIsRefusedByName) {
  const std::pair<json, const char*> settings[] = {
      {{{"layers_block_type", {"mamba", "moe", "mamba", "window", "moe", "mamba", "mlp"}}},
       "window"},
      {{{"layers_block_type", nullptr}, {"hybrid_override_pattern", "MEM?EM-"}},
       "hybrid_override_pattern"},
      {{{"layers_block_type", nullptr}, {"num_hidden_layers", 7}}, "hybrid_override_pattern"},
      {{{"mlp_hidden_act", "silu"}}, "mlp_hidden_act"},
      {{{"mamba_hidden_act", "gelu"}}, "mamba_hidden_act"},
      {{{"attention_bias", true}}, "attention_bias"},
      {{{"mlp_bias", true}}, "mlp_bias"},
      {{{"use_bias", true}}, "use_bias"},
      {{{"mamba_proj_bias", true}}, "mamba_proj_bias"},
      {{{"use_conv_bias", false}}, "conv1d.bias"},
      {{{"n_shared_experts", 2}}, "n_shared_experts"},
      {{{"moe_latent_size", 48}}, "moe_latent_size"},
      {{{"moe_latent_size", nullptr}}, "fc1_latent_proj"},
      {{{"norm_eps", 1e-6}}, "norm_eps"},
      {{{"sliding_window", 128}}, "sliding_window"},
      {{{"time_step_limit", {0.9, 0.1}}}, "time_step_limit"},
      {{{"time_step_limit", {0.1}}}, "time_step_limit"}};
  for (const auto& [patch, expected] : settings) {
    EXPECT_THAT(refusal_with([&, p = patch](EditableCheckpoint& c) { c.config.merge_patch(p); }),
                HasSubstr(expected))
        << patch;
  }
  EXPECT_EQ(refusal_with([](EditableCheckpoint&) {}), "");
  for (const char* name : {"backbone.layers.1.mixer.gate.e_score_correction_bias",
                           "backbone.layers.0.mixer.conv1d.bias", "backbone.layers.0.mixer.D"}) {
    EXPECT_THAT(refusal_with([&](EditableCheckpoint& c) { c.tensors.erase(name); }),
                HasSubstr(name));
  }
  EXPECT_THAT(refusal_with([](EditableCheckpoint& c) {
                c.add("backbone.layers.3.mixer.q_norm.weight", {16}, std::vector<float>(16, 1.0f));
              }),
              HasSubstr("backbone.layers.3.mixer.q_norm.weight"));
}

TEST(NemotronH, ModelOptsBrokenExcludeNamesDoNoHarm) {
  std::ifstream file(folder_of("nemotron_h-nano") / "hf_quant_config.json");
  const json excluded = json::parse(file)["quantization"]["exclude_modules"];
  ASSERT_TRUE(std::any_of(excluded.begin(), excluded.end(), [](const json& name) {
    return name.get<std::string>().find('\0') != std::string::npos;
  }));
  EXPECT_THAT(refusals(*Checkpoint::open(folder_of("nemotron_h-nano"), {.headers_only = true})),
              ::testing::IsEmpty());
}

}  // namespace
}  // namespace moe4
