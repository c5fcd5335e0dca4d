// The headers of every small checkpoint of tests/data, filled: loaded as what they claim to be, by
// the real loaders, and computed with.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <set>

#include "checkpoint/checkpoint.h"
#include "moe/dequantize.h"
#include "ops/experts/registry.h"
#include "support/editable_checkpoint.h"
#include "support/header_folder.h"
#include "support/sequence.h"
#include "support/shared_models.h"
#include "support/temp_dir.h"
#include "synth/synth.h"
#include "synth/synth_tokenizer.h"
#include "text/tokenizer.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using testing::EditableCheckpoint;
using testing::LogitsFor;
using testing::Sequence;
using testing::TempDir;

fs::path folder_of(const std::string& name) { return testing::test_data() / "checkpoints" / name; }

std::vector<std::string> folders() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(testing::test_data() / "checkpoints")) {
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Filled headers of a small checkpoint, gone with the object.
class Filled {
 public:
  explicit Filled(const std::string& name, const FillOptions& options = {.threads = 2}) {
    testing::copy_headers(folder_of(name), dir_ / "headers");
    result = fill_headers(path(), dir_ / "headers", options);
  }
  fs::path path() const { return dir_ / "filled"; }

  SynthResult result;

 private:
  TempDir dir_;
};

// Mean over rows of the sum of their squared weights: what a linear multiplies variances by.
double variance_gain(const LinearWeights& linear) {
  std::vector<float> row(static_cast<size_t>(linear.in_features));
  double squares = 0;
  for (int64_t r = 0; r < linear.out_features; ++r) {
    dequantize_row(linear, r, row.data());
    for (const float w : row) squares += double{w} * w;
  }
  return squares / static_cast<double>(linear.out_features);
}

class FillHeaders : public ::testing::TestWithParam<std::string> {};

TEST_P(FillHeaders, WeightsKeepTheVarianceOfActivations) {
  const Filled filled(GetParam());
  const auto checkpoint = Checkpoint::open(filled.path());
  EXPECT_EQ(checkpoint->total_tensor_bytes(), filled.result.bytes);
  std::vector<LinearWeights> linears;
  std::vector<MoeLayerWeights> layers;  // own what views of theirs lie in
  for (const std::string& module : checkpoint->linear_modules()) {
    if (checkpoint->has_linear(module)) linears.push_back(checkpoint->linear(module));
  }
  for (int64_t layer = 0; layer < checkpoint->config().num_layers; ++layer) {
    if (!checkpoint->config().is_moe_layer[static_cast<size_t>(layer)]) continue;
    layers.push_back(checkpoint->moe_layer(layer));
    const ExpertWeights& expert = layers.back().experts[1];
    for (const LinearWeights* l : {&expert.up, &expert.down}) linears.push_back(*l);
  }
  for (const LinearWeights& linear : linears) {
    if (linear.out_features * linear.in_features < 1024) continue;  // a few say little
    const double gain = variance_gain(linear);
    // Scales that are powers of two are a factor of 1.6 off, and a block's own one another 1.6.
    const QuantFormat format = linear.scheme.weight.format;
    const bool is_exact = format != QuantFormat::kMxfp4 && format != QuantFormat::kFp8Block128 &&
                          linear.memory == nullptr;  // decoded MXFP8
    EXPECT_GT(gain, is_exact ? 0.6 : 0.15) << linear.name;
    EXPECT_LT(gain, is_exact ? 1.6 : 4.0) << linear.name;
  }
  EXPECT_FALSE(linears.empty());
}

TEST_P(FillHeaders, ModelsComputeFiniteLogitsThatVary) {
  register_builtin_backends();
  ThreadPool threads(2);
  const Filled filled(GetParam());
  const auto checkpoint = Checkpoint::open(filled.path());
  const auto model = Model::load(*checkpoint, {.threads = &threads});
  std::vector<int32_t> ids;
  ids.reserve(24);
  for (int32_t i = 0; i < 24; ++i) ids.push_back(1 + 37 * i % 97);
  Sequence sequence(*model, 32);
  std::vector<float> logits;
  sequence.forward(ids, LogitsFor::kAllTokens, logits);
  std::set<int64_t> best;
  int repeats = 0;  // of the token that was read, as heads that are tied to embeddings tend to
  const auto vocab = static_cast<int64_t>(logits.size() / ids.size());
  double squares = 0;
  for (size_t t = 0; t < ids.size(); ++t) {
    const auto row = logits.begin() + static_cast<int64_t>(t) * vocab;
    for (int64_t i = 0; i < vocab; ++i) {
      ASSERT_TRUE(std::isfinite(row[i])) << "token " << t << ", logit " << i;
      squares += double{row[i]} * row[i];
    }
    const int64_t chosen = std::max_element(row, row + vocab) - row;
    best.insert(chosen);
    repeats += chosen == ids[t] ? 1 : 0;
  }
  const double deviation = std::sqrt(squares / static_cast<double>(logits.size()));
  EXPECT_GT(deviation, 0.05);
  EXPECT_LT(deviation, 10.0);
  EXPECT_GE(best.size(), 8u) << "of 24 tokens that follow";
  EXPECT_LT(repeats, 12);
  for (int32_t id = 3; id < 7; ++id) {
    sequence.forward({&id, 1}, LogitsFor::kLastToken, logits);
    ASSERT_TRUE(
        std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); }));
  }
}

INSTANTIATE_TEST_SUITE_P(All, FillHeaders, ::testing::ValuesIn(folders()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

std::string contents(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(FillHeadersBytes, AreThoseOfTheSeedHoweverManyThreadsWrite) {
  const Filled one("gpt_oss-mxfp4", {.threads = 1}), three("gpt_oss-mxfp4", {.threads = 3}),
      other("gpt_oss-mxfp4", {.seed = 2, .threads = 1});
  const std::string bytes = contents(one.path() / "model.safetensors");
  EXPECT_EQ(bytes, contents(three.path() / "model.safetensors"));
  EXPECT_NE(bytes, contents(other.path() / "model.safetensors"));
}

// All elements of a small tensor as floats.
std::vector<float> values(const Checkpoint& checkpoint, const std::string& name) {
  const TensorView view = checkpoint.tensor(name);
  std::vector<float> out(static_cast<size_t>(view.num_elements()));
  convert_to_float(view.data, view.dtype, view.num_elements(), out.data());
  return out;
}

void expect_all(const Checkpoint& checkpoint, const std::string& name, float value) {
  for (const float x : values(checkpoint, name)) EXPECT_EQ(x, value) << name;
}

TEST(FillHeadersRoles, NormsMultiplyByOne) {
  const Filled plain("glm4_moe-modelopt-nvfp4"), one_plus("qwen3_next-modelopt-nvfp4"),
      gemma("gemma4-modelopt-nvfp4");
  expect_all(*Checkpoint::open(plain.path()), "model.layers.0.input_layernorm.weight", 1);
  const auto next = Checkpoint::open(one_plus.path());
  expect_all(*next, "model.layers.0.input_layernorm.weight", 0);
  expect_all(*next, "model.norm.weight", 0);
  expect_all(*next, "model.layers.0.linear_attn.norm.weight", 1);
  const auto gemma4 = Checkpoint::open(gemma.path());
  expect_all(*gemma4, gemma4->layer_name(0, "post_feedforward_layernorm_1.weight"), 1);
  expect_all(*gemma4, gemma4->layer_name(0, "layer_scalar"), 1);
  expect_all(*gemma4, gemma4->layer_name(0, "router.scale"), 1);
  expect_all(*gemma4, gemma4->layer_name(0, "router.per_expert_scale"), 1);
}

TEST(FillHeadersRoles, SmallTensorsAreWhatTheyAreFor) {
  const Filled nano("nemotron_h-nano"), oss("gpt_oss-mxfp4");
  const auto mamba = Checkpoint::open(nano.path()), gpt = Checkpoint::open(oss.path());
  for (const std::string& name : mamba->tensor_names()) {
    if (name.ends_with("mixer.A_log")) {
      for (const float x : values(*mamba, name)) EXPECT_TRUE(x >= 0 && x <= 2.7f) << name << x;
    }
    if (name.ends_with("mixer.dt_bias")) {
      for (const float x : values(*mamba, name)) EXPECT_TRUE(x >= -5 && x <= -1) << name << x;
    }
    if (name.ends_with("mixer.D")) expect_all(*mamba, name, 1);
    if (name.ends_with("e_score_correction_bias")) {
      for (const float x : values(*mamba, name)) EXPECT_LT(std::abs(x), 0.1f) << name;
    }
  }
  double sinks = 0;
  for (const float x : values(*gpt, "model.layers.0.self_attn.sinks")) sinks += double{x} * x;
  EXPECT_GT(sinks, 0);
  EXPECT_LT(std::sqrt(sinks), 4);
}

TEST(FillHeadersFiles, AreCopiedAndATokenizerIsAddedWhereThereIsNone) {
  const Filled with("gpt_oss-mxfp4"), without("mistral4-ct-nvfp4"),
      small("kimi_k2-modelopt-nvfp4");  // of 128 ids
  for (const char* name : {"config.json", "generation_config.json", "tokenizer.json"}) {
    EXPECT_EQ(contents(with.path() / name), contents(folder_of("gpt_oss-mxfp4") / name)) << name;
  }
  EXPECT_EQ(Tokenizer::load(without.path())->token_bytes(259), " a");
  EXPECT_EQ(contents(without.path() / "generation_config.json"),
            contents(folder_of("mistral4-ct-nvfp4") / "generation_config.json"));
  EXPECT_TRUE(fs::exists(small.path() / "hf_quant_config.json"));
  EXPECT_FALSE(fs::exists(small.path() / "tokenizer.json"));
}

// What fill_headers() says of a changed checkpoint; nothing may stay behind.
std::string error_of(const std::function<void(const fs::path&)>& make) {
  const TempDir dir;
  make(dir / "headers");
  try {
    fill_headers(dir / "out", dir / "headers", {.threads = 1});
  } catch (const Error& error) {
    EXPECT_FALSE(fs::exists(dir / "out"));
    EXPECT_FALSE(fs::exists(dir / "out.partial"));
    return error.what();
  }
  return "";
}

std::string error_with(const char* folder, const std::string& tensor, DType dtype,
                       std::vector<int64_t> shape) {
  return error_of([&](const fs::path& to) {
    EditableCheckpoint checkpoint(folder);
    auto& changed = checkpoint.tensors[tensor];
    changed = {dtype, std::move(shape), {}};
    changed.bytes.resize(static_cast<size_t>(
        size_of(dtype) * std::accumulate(changed.shape.begin(), changed.shape.end(), int64_t{1},
                                         std::multiplies<>())));
    checkpoint.write(to);
  });
}

TEST(FillHeadersErrors, NameTheTensorWhoseMeaningNobodySays) {
  const char* model = "qwen3-modelopt-nvfp4";
  const auto expect = [](const std::string& error, const std::string& word) {
    EXPECT_NE(error.find(word), std::string::npos) << error;
  };
  expect(error_with(model, "model.layers.0.mlp.odd.weight", DType::kU8, {16, 8}),
         "tensor model.layers.0.mlp.odd.weight");
  expect(error_with(model, "model.layers.0.mlp.odd", DType::kI32, {16, 8}),
         "tensor model.layers.0.mlp.odd");
  expect(error_with(model, "model.layers.0.mlp.experts.0.up_proj.weight_scale", DType::kF8E4M3,
                    {5, 3}),
         "tensor model.layers.0.mlp.experts.0.up_proj.weight_scale");
  expect(error_with(model, "model.layers.0.mlp.experts.0.up_proj.weight_scale", DType::kF32, {}),
         "tensor model.layers.0.mlp.experts.0.up_proj.weight_scale");
}

TEST(FillHeadersErrors, NameWhatIsAbsent) {
  const auto contains = [](const std::string& error, const std::string& word) {
    EXPECT_NE(error.find(word), std::string::npos) << error;
  };
  contains(error_of([](const fs::path&) {}), "not a folder of headers");
  contains(error_of([](const fs::path& to) {
             testing::copy_headers(folder_of("qwen3-bf16-sharded"), to);
             fs::remove(to / "model-00002-of-00003.safetensors");
           }),
           "headers of shards are absent");
  contains(error_of([](const fs::path& to) {
             testing::copy_headers(folder_of("qwen3-modelopt-nvfp4"), to);
             fs::remove(to / "model.safetensors");
           }),
           "headers of shards are absent");
  const TempDir dir;
  testing::copy_headers(folder_of("qwen3-modelopt-nvfp4"), dir / "headers");
  EXPECT_THROW(fill_headers(dir / "headers", dir / "headers", {}), Error);  // exists
}

}  // namespace
}  // namespace moe4
