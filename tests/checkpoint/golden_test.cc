// Canonical weights of every small checkpoint, multiplied out naively, give the expert outputs that
// transformers computed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "moe/dequantize.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

std::vector<double> multiply(const LinearWeights& linear, const std::vector<double>& x) {
  std::vector<double> y(linear.out_features);
  std::vector<float> row(linear.in_features);
  for (int64_t n = 0; n < linear.out_features; ++n) {
    dequantize_row(linear, n, row.data());
    y[n] = double{bias_at(linear, n)};
    for (int64_t k = 0; k < linear.in_features; ++k) y[n] += double{row[k]} * x[k];
  }
  return y;
}

std::vector<double> run_expert(const ExpertWeights& expert, const ActivationParams& activation,
                               const std::vector<double>& x) {
  std::vector<double> h = multiply(expert.up, x);
  const std::vector<double> gate =
      expert.gate ? multiply(*expert.gate, x) : std::vector<double>(h.size());
  for (size_t i = 0; i < h.size(); ++i) h[i] = apply_activation(activation, gate[i], h[i]);
  return multiply(expert.down, h);
}

// Around Nemotron's routed experts, where they work on a latent.
LinearWeights latent_projection(const Checkpoint& checkpoint, int64_t layer, const char* which) {
  return checkpoint.linear(
      checkpoint.layer_name(layer, std::string("mixer.") + which + "_latent_proj"));
}

// Gemma-4's experts read the residual under a norm of their own.
void apply_experts_norm(const Checkpoint& checkpoint, int64_t layer, std::vector<double>& x) {
  const std::string name = checkpoint.layer_name(layer, "pre_feedforward_layernorm_2.weight");
  if (!checkpoint.has_tensor(name)) return;
  const TensorView stored = checkpoint.tensor(name);
  std::vector<float> weight(x.size());
  ASSERT_EQ(stored.dim(0), static_cast<int64_t>(x.size()));
  convert_to_float(stored.data, stored.dtype, stored.dim(0), weight.data());
  double squares = 0;
  for (const double v : x) squares += v * v;
  const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + 1e-6);
  for (size_t i = 0; i < x.size(); ++i) x[i] *= scale * double{weight[i]};
}

// Relative Frobenius error of a layer's routed experts against the golden.
double layer_error(const Checkpoint& checkpoint, const SafetensorsFile& golden, int64_t layer) {
  const std::string key = "moe.layer" + std::to_string(layer) + ".";
  const MoeLayerWeights weights = checkpoint.moe_layer(layer);
  const TensorView x = golden.tensor(key + "input");
  const TensorView ids = golden.tensor(key + "topk_ids");
  const TensorView scales = golden.tensor(key + "topk_weights");
  const TensorView want = golden.tensor(key + "experts_output");
  double error = 0, norm = 0;
  for (int64_t t = 0; t < x.dim(0); ++t) {
    std::vector<float> row(x.dim(1)), expected(x.dim(1)), scale(ids.dim(1));
    convert_to_float(x.row(t), x.dtype, x.dim(1), row.data());
    convert_to_float(want.row(t), want.dtype, x.dim(1), expected.data());
    convert_to_float(scales.row(t), scales.dtype, ids.dim(1), scale.data());
    std::vector<double> in(row.begin(), row.end());
    apply_experts_norm(checkpoint, layer, in);
    const bool is_latent = weights.problem.hidden_size != x.dim(1);
    if (is_latent) in = multiply(latent_projection(checkpoint, layer, "fc1"), in);
    std::vector<double> y(in.size());
    for (int64_t j = 0; j < ids.dim(1); ++j) {
      int32_t id = 0;
      std::memcpy(&id, ids.row(t) + 4 * j, 4);
      std::vector<double> read = in;
      const bool on_input = weights.problem.weight_on_input;
      for (double& v : read) v *= on_input ? double{scale[j]} : 1.0;
      const auto out = run_expert(weights.experts[id], weights.problem.activation, read);
      for (size_t i = 0; i < y.size(); ++i) y[i] += (on_input ? 1.0 : double{scale[j]}) * out[i];
    }
    if (is_latent) y = multiply(latent_projection(checkpoint, layer, "fc2"), y);
    for (size_t i = 0; i < y.size(); ++i) {
      error += (y[i] - expected[i]) * (y[i] - expected[i]);
      norm += double{expected[i]} * expected[i];
    }
  }
  return std::sqrt(error / norm);
}

class SmallCheckpoint : public ::testing::TestWithParam<std::string> {
 protected:
  fs::path folder() const { return fs::path(MOE4_TEST_DATA) / "checkpoints" / GetParam(); }
};

TEST_P(SmallCheckpoint, GivesTransformersExpertOutputs) {
  const auto checkpoint = Checkpoint::open(folder());
  const char* mode = GetParam() == "qwen3-bf16-sharded" ? "bf16" : "w4a16";
  const auto golden =
      SafetensorsFile::open(folder() / "golden" / (std::string(mode) + ".safetensors"));
  int layers = 0;
  for (int64_t layer = 0; layer < checkpoint->config().num_layers; ++layer) {
    if (!checkpoint->config().is_moe_layer[layer]) continue;
    // float32 sums of a few hundred terms against float64 ones.
    EXPECT_LT(layer_error(*checkpoint, *golden, layer), 2e-6) << "layer " << layer;
    ++layers;
  }
  EXPECT_GT(layers, 0);
}

TEST_P(SmallCheckpoint, HasNothingToWarnAbout) {
  const auto checkpoint = Checkpoint::open(folder());
  for (const CheckpointNote& note : checkpoint->notes()) {
    // What ModelOpt 0.47 writes for models without a prefix; said, since it excludes nothing.
    if (note.message.find("NUL character") != std::string::npos) continue;
    // DeepSeek-V4's publisher multiplies its MXFP4 experts with FP8 activations; said, not done.
    if (note.message.find("FP8 activations beside MXFP4") != std::string::npos) {
      EXPECT_EQ(GetParam(), "deepseek_v4-mxfp4");
      continue;
    }
    EXPECT_EQ(note.level, CheckpointNote::Level::kInfo) << note.where << ": " << note.message;
  }
}

TEST_P(SmallCheckpoint, HeadersAloneGiveTheSameSchemes) {
  const auto full = Checkpoint::open(folder());
  const auto headers = Checkpoint::open(folder(), {.headers_only = true});
  EXPECT_EQ(full->linear_modules(), headers->linear_modules());
  for (const std::string& module : full->linear_modules()) {
    EXPECT_EQ(full->linear(module).scheme, headers->linear(module).scheme) << module;
    EXPECT_TRUE(headers->linear(module).weight.empty()) << module;
  }
}

std::vector<std::string> small_checkpoints() {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(fs::path(MOE4_TEST_DATA) / "checkpoints")) {
    if (entry.is_directory()) names.insert(entry.path().filename().string());
  }
  return {names.begin(), names.end()};
}

INSTANTIATE_TEST_SUITE_P(All, SmallCheckpoint, ::testing::ValuesIn(small_checkpoints()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// What is noted about qwen3_5-fused-experts (layer 0 BF16, layer 1 NVFP4, in 3-D tensors) if the
// metadata lists the experts of another layer than 1.
std::set<std::string> notes_if_listed(const std::string& layer) {
  const testing::TempDir dir;
  const fs::path folder = dir / "model";
  fs::copy(fs::path(MOE4_TEST_DATA) / "checkpoints/qwen3_5-fused-experts", folder,
           fs::copy_options::recursive);
  std::ofstream(folder / "hf_quant_config.json")
      << R"({"producer": {"name": "modelopt", "version": "0.44.0"}, "quantization": {)"
      << R"("quant_algo": "MIXED_PRECISION", "quantized_layers": {"model.layers.)" << layer
      << R"(.mlp.experts": {"quant_algo": "W4A16_NVFP4", "group_size": 16}}}})";
  const auto checkpoint = Checkpoint::open(folder);
  std::set<std::string> notes;
  for (const CheckpointNote& note : checkpoint->notes()) {
    // What ModelOpt 0.47 writes for models without a prefix; said, since it excludes nothing.
    if (note.message.find("NUL character") != std::string::npos) continue;
    EXPECT_EQ(note.level, CheckpointNote::Level::kWarning);
    notes.insert(note.where + " " + note.message);
  }
  return notes;
}

TEST(SmallCheckpoints, FusedExpertsThatContradictTheMetadataAreNoted) {
  EXPECT_EQ(notes_if_listed("1"), std::set<std::string>{});
  std::set<std::string> expected;
  for (const std::string projection : {"gate_proj", "up_proj", "down_proj"}) {
    expected.insert("model.layers.1.mlp.experts.0." + projection +
                    " is not quantised by the metadata, but its tensors are NVFP4; its activations "
                    "stay BF16");
    expected.insert("model.layers.0.mlp.experts.0." + projection +
                    " is W4A16 (nvfp4 static, none) by quantized_layers model.layers.0.mlp.experts "
                    "W4A16_NVFP4, but its tensors are not quantised");
  }
  EXPECT_EQ(notes_if_listed("0"), expected);
}

TEST(SmallCheckpoints, SchemesFollowEachDialectsRules) {
  const auto scheme = [](const std::string& name, int64_t layer) {
    const auto folder = fs::path(MOE4_TEST_DATA) / "checkpoints" / name;
    return to_string(Checkpoint::open(folder)->moe_layer(layer).scheme);
  };
  const std::string w4a4 = to_string(kW4A4), w4a16 = to_string(kW4A16);
  EXPECT_EQ(scheme("qwen3-modelopt-nvfp4", 0), w4a4);
  EXPECT_EQ(scheme("qwen3-modelopt-w4a16", 0), w4a16);  // its config_groups claim 4-bit inputs
  EXPECT_EQ(scheme("qwen3-modelopt-mixed-exact", 0),
            "W8A8 (fp8 per-tensor static, fp8 per-tensor static)");
  EXPECT_EQ(scheme("qwen3-modelopt-mixed-exact", 1), w4a16);
  EXPECT_EQ(scheme("qwen3_5-modelopt-mixed-prefix", 1), w4a16);
  EXPECT_EQ(scheme("qwen3-ct-nvfp4", 1), w4a4);
  EXPECT_EQ(scheme("qwen3_5-ct-nvfp4a16", 1), w4a16);
  EXPECT_EQ(scheme("qwen3-ct-mixed", 0), "W8A8 (fp8 per-channel static, fp8 per-token dynamic)");
  EXPECT_EQ(scheme("qwen3-ct-mixed", 1), w4a16);
  EXPECT_EQ(scheme("qwen3-bf16-sharded", 1), "unquantised");
  EXPECT_EQ(scheme("qwen3-fp8-block128", 0), "W8A8 (fp8 block-128 static, fp8 block-128 dynamic)");
  EXPECT_EQ(scheme("qwen3_5-fused-experts", 0), "unquantised");
  EXPECT_EQ(scheme("qwen3_5-fused-experts", 1), w4a16);
}

TEST(SmallCheckpoints, LinearsOutsideTheExpertsFollowTheirOwnEntries) {
  const auto mixed =
      Checkpoint::open(fs::path(MOE4_TEST_DATA) / "checkpoints/qwen3_5-modelopt-mixed-prefix");
  EXPECT_EQ(mixed->text_prefix(), "model.language_model.");
  EXPECT_TRUE(mixed->linear("lm_head").scheme == kW4A16);
  EXPECT_TRUE(mixed->linear(mixed->layer_name(0, "mlp.shared_expert.up_proj")).scheme == kW4A16);
  const auto qkv = mixed->linear(mixed->layer_name(0, "linear_attn.in_proj_qkv"));
  EXPECT_EQ(qkv.scheme.weight.format, QuantFormat::kFp8Tensor);
  EXPECT_TRUE(qkv.input_scale.has_value());
  EXPECT_TRUE(mixed->linear(mixed->layer_name(0, "linear_attn.in_proj_a")).scheme == kUnquantized);
  // Named qkv_proj in the metadata.
  const auto fused = Checkpoint::open(fs::path(MOE4_TEST_DATA) / "checkpoints/qwen3-ct-mixed");
  EXPECT_EQ(fused->linear("model.layers.0.self_attn.k_proj").scheme.activation->format,
            QuantFormat::kFp8Token);
  EXPECT_TRUE(fused->linear("model.layers.0.self_attn.o_proj").scheme == kUnquantized);
}

TEST(SmallCheckpoints, GateAndUpKeepTheirOwnGlobalScales) {
  const auto layer =
      Checkpoint::open(fs::path(MOE4_TEST_DATA) / "checkpoints/qwen3-gate-up-scales")->moe_layer(0);
  for (const ExpertWeights& expert : layer.experts) {
    EXPECT_GT(expert.gate->global_scale.value, 5 * expert.up.global_scale.value);
  }
}

}  // namespace
}  // namespace moe4
