// gpt-oss against transformers (scripts/make_gpt_oss_goldens.py): 40 tokens through windows of 8,
// with every bias, sink and norm at random, and the text that follows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

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
using ::testing::AllOf;
using testing::EditableCheckpoint;
using testing::Golden;
using ::testing::HasSubstr;
using testing::LogitsFor;
using testing::Sequence;
using testing::TempDir;

constexpr char kName[] = "gpt_oss-mxfp4";

fs::path folder_of(const std::string& name) {
  return fs::path(MOE4_TEST_DATA) / "checkpoints" / name;
}

std::unique_ptr<Model> load(DType dtype, const std::string& backend, ThreadPool& threads,
                            const fs::path& folder = folder_of(kName)) {
  register_builtin_backends();
  const auto checkpoint = Checkpoint::open(folder);
  ModelOptions options{.compute_dtype = dtype, .threads = &threads};
  options.moe.backend = backend;
  return Model::load(*checkpoint, options);
}

int32_t argmax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

float largest(std::span<const float> values) {
  float most = 0;
  for (const float v : values) most = std::max(most, std::abs(v));
  return most;
}

// As openai publishes it, and exports of others.
class GptOssFolders : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(All, GptOssFolders,
                         ::testing::Values(kName, "gpt_oss-modelopt-nvfp4", "gpt_oss-ct-nvfp4"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(GptOssFolders, LogitsAndGreedyTextAreThoseOfTransformers) {
  ThreadPool threads(2);
  const Golden golden(folder_of(GetParam()) / "golden/w4a16.safetensors");
  const auto model = load(DType::kF32, "reference", threads, folder_of(GetParam()));
  const std::vector<int32_t> ids = golden.ints("input_ids"), greedy = golden.ints("greedy");
  const std::vector<float> expected = golden.floats("logits");
  Sequence sequence(*model, static_cast<int64_t>(ids.size() + greedy.size()));
  std::vector<float> logits;
  sequence.forward(ids, LogitsFor::kAllTokens, logits);
  ASSERT_EQ(logits.size(), expected.size());
  std::vector<float> difference(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) difference[i] = logits[i] - expected[i];
  const float error = largest(difference) / largest(expected);
  RecordProperty("logits_error", std::to_string(error));
  EXPECT_LT(error, 1e-5f);

  const auto vocab = static_cast<int64_t>(expected.size() / ids.size());
  std::vector<int32_t> text = {argmax({logits.end() - vocab, logits.end()})};
  while (text.size() < greedy.size()) {
    sequence.forward(std::span(text).last(1), LogitsFor::kLastToken, logits);
    text.push_back(argmax(logits));
  }
  EXPECT_EQ(text, greedy);
}

TEST_P(GptOssFolders, TheFastPathKeepsClearGreedyChoices) {
  ThreadPool threads(2);
  const Golden golden(folder_of(GetParam()) / "golden/w4a16.safetensors");
  const auto model = load(DType::kBF16, "", threads, folder_of(GetParam()));
  const std::vector<int32_t> ids = golden.ints("input_ids"), greedy = golden.ints("greedy");
  const std::vector<float> margin = golden.floats("greedy_margin");
  Sequence sequence(*model, static_cast<int64_t>(ids.size() + greedy.size()));
  std::vector<float> logits;
  sequence.forward(ids, LogitsFor::kLastToken, logits);
  int clear = 0;
  for (size_t step = 0; step < greedy.size(); ++step) {
    if (margin[step] > 0.05f) {
      EXPECT_EQ(argmax(logits), greedy[step]) << "step " << step << " margin " << margin[step];
      ++clear;
    }
    sequence.forward(std::span(greedy).subspan(step, 1), LogitsFor::kLastToken, logits);
  }
  EXPECT_GE(clear, 6);
}

TEST(GptOss, EveryOtherLayerKeepsAWindow) {
  ThreadPool threads(1);
  const auto model = load(DType::kBF16, "", threads);
  std::vector<int64_t> windows;
  for (const CacheSpec& spec : model->caches()) {
    windows.push_back(std::get<PagedSpec>(spec).window);
  }
  EXPECT_EQ(windows, (std::vector<int64_t>{8, 0, 8, 0}));
}

std::string error_with(const std::function<void(EditableCheckpoint&)>& change) {
  EditableCheckpoint checkpoint(kName);
  change(checkpoint);
  TempDir dir;
  checkpoint.write(dir.path());
  std::string all;
  try {
    const auto headers = Checkpoint::open(dir.path(), {.headers_only = true});
    for (const Refusal& refusal : refusals(*headers)) all += refusal.message + "\n";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    all += error.what();
  }
  return all;
}

TEST(GptOss, TensorsThatItNeedsAreMissedByName) {
  ASSERT_EQ(error_with([](EditableCheckpoint&) {}), "");
  for (const char* name :
       {"self_attn.sinks", "self_attn.q_proj.bias", "self_attn.o_proj.bias", "mlp.router.bias",
        "mlp.router.weight", "mlp.experts.gate_up_proj_bias", "mlp.experts.down_proj_bias",
        "mlp.experts.down_proj_scales", "input_layernorm.weight"}) {
    const std::string full = std::string("model.layers.2.") + name;
    EXPECT_THAT(error_with([&](EditableCheckpoint& c) { ASSERT_EQ(c.tensors.erase(full), 1u); }),
                HasSubstr(full.substr(0, full.rfind('.'))))
        << name;
  }
  EXPECT_THAT(error_with([](EditableCheckpoint& c) {
                c.add("model.layers.0.self_attn.sinks", {3}, {1, 2, 3});
              }),
              HasSubstr("model.layers.0.self_attn.sinks"));
  EXPECT_THAT(error_with([](EditableCheckpoint& c) {
                c.add("model.layers.1.self_attn.q_norm.weight", {32}, std::vector<float>(32));
              }),
              HasSubstr("model.layers.1.self_attn.q_norm.weight"));
}

std::string scheme_of(const std::string& name) {
  return to_string(Checkpoint::open(folder_of(name))->moe_layer(0).scheme);
}

std::string error_of_experts(const EditableCheckpoint& checkpoint) {
  TempDir dir;
  checkpoint.write(dir.path());
  try {
    (void)Checkpoint::open(dir.path())->moe_layer(0);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    return error.what();
  }
  return "";
}

TEST(GptOssExports, KeepTheirSchemesAndBiases) {
  EXPECT_EQ(scheme_of("gpt_oss-modelopt-nvfp4"), to_string(kW4A4));
  EXPECT_EQ(scheme_of("gpt_oss-ct-nvfp4"), to_string(kW4A4));
  // Both quantised the same weights, so that biases, which are not quantised, are equal.
  const auto biases = [](const char* name) {
    const auto checkpoint = Checkpoint::open(folder_of(name));
    std::vector<uint16_t> all;
    for (const ExpertWeights& expert : checkpoint->moe_layer(1).experts) {
      for (const TensorView* bias : {&expert.gate->bias, &expert.up.bias, &expert.down.bias}) {
        for (int64_t i = 0; i < bias->shape.at(0); ++i) {
          all.push_back(*reinterpret_cast<const uint16_t*>(bias->row(i)));
        }
      }
    }
    return all;
  };
  EXPECT_EQ(biases("gpt_oss-modelopt-nvfp4"), biases("gpt_oss-ct-nvfp4"));
  EXPECT_EQ(biases("gpt_oss-ct-nvfp4").size(), 8 * (32 + 32 + 64u));
}

TEST(GptOssExports, ExpertsWithoutBiasesAreRefusedByTensor) {
  EditableCheckpoint modelopt("gpt_oss-modelopt-nvfp4");
  ASSERT_EQ(error_of_experts(modelopt), "");
  ASSERT_EQ(modelopt.tensors.erase("model.layers.0.mlp.experts.down_proj_bias"), 1u);
  EXPECT_THAT(error_of_experts(modelopt),
              AllOf(HasSubstr("no bias"), HasSubstr("layers.0.mlp.experts.down_proj")));
  EditableCheckpoint compressed("gpt_oss-ct-nvfp4");
  ASSERT_EQ(error_of_experts(compressed), "");
  ASSERT_EQ(compressed.tensors.erase("model.layers.0.mlp.experts.experts.3.up_proj.bias"), 1u);
  EXPECT_THAT(error_of_experts(compressed),
              AllOf(HasSubstr("no bias"), HasSubstr("experts.experts.3.up_proj")));
}

TEST(GptOssExports, ExpertsWithOutputsAsRowsAreRefused) {
  EditableCheckpoint checkpoint("gpt_oss-modelopt-nvfp4");
  auto& gate_up = checkpoint.tensors.at("model.layers.0.mlp.experts.gate_up_proj");
  std::swap(gate_up.shape[1], gate_up.shape[2]);
  EXPECT_THAT(error_of_experts(checkpoint),
              AllOf(HasSubstr("gate_up_proj"), HasSubstr("[8, 32, 64]")));
}

TEST(GptOss, SettingsThatItDoesNotComputeAreRefusedByName) {
  const auto with = [](const char* key, const json& value) {
    return error_with([&](EditableCheckpoint& c) { c.config[key] = value; });
  };
  EXPECT_THAT(with("initial_context_length", 4096),
              AllOf(HasSubstr("initial_context_length"), HasSubstr("64")));
  EXPECT_THAT(with("attention_bias", false), HasSubstr("attention_bias is false"));
  EXPECT_THAT(with("hidden_act", "gelu"), HasSubstr("hidden_act"));
  EXPECT_THAT(with("experts_per_token", 2), HasSubstr("experts_per_token"));
  EXPECT_THAT(with("sliding_window", nullptr), HasSubstr("sliding_window"));
  EXPECT_THAT(with("rope_scaling", nullptr), HasSubstr("rope_scaling"));
  EXPECT_THAT(with("swiglu_limit", 0), HasSubstr("swiglu_limit"));
  EXPECT_THAT(with("layer_types",
                   {"full_attention", "chunked_attention", "full_attention", "full_attention"}),
              HasSubstr("chunked_attention"));
  EXPECT_THAT(error_with([](EditableCheckpoint& c) { c.config["rope_scaling"]["beta"] = 1; }),
              HasSubstr("rope_scaling.beta"));
  // Without the list layers alternate, the first with a window.
  EXPECT_EQ(error_with([](EditableCheckpoint& c) { c.config.erase("layer_types"); }), "");
}

}  // namespace
}  // namespace moe4
