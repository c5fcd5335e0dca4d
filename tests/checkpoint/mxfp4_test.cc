// MXFP4 experts in the layouts of gpt-oss, compressed-tensors and ModelOpt, against values computed
// here from the bytes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors_writer.h"
#include "moe/dequantize.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kExperts = 2, kHidden = 96, kWidth = 64;

// The table of the format's specification.
double value(uint8_t code, uint8_t scale) {
  constexpr double kValues[16] = {0.0,  0.5,  1.0,  1.5,  2.0,  3.0,  4.0,  6.0,
                                  -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0};
  return std::ldexp(kValues[code], scale - 127);
}

struct Tensor {
  DType dtype;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;
};

class Mxfp4Checkpoint : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ =
        fs::path(::testing::TempDir()) /
        (std::string("moe4_") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  void add(const std::string& name, DType dtype, std::vector<int64_t> shape, int least = 0,
           int most = 255) {
    Tensor tensor{dtype, std::move(shape), {}};
    int64_t n = size_of(dtype);
    for (const int64_t d : tensor.shape) n *= d;
    for (int64_t i = 0; i < n; ++i) {
      tensor.bytes.push_back(static_cast<uint8_t>(least + random_() % (most - least + 1)));
    }
    tensors_[name] = std::move(tensor);
  }
  void add_scales(const std::string& name, DType dtype, std::vector<int64_t> shape) {
    add(name, dtype, std::move(shape), 0, 250);
  }
  void add_gpt_oss() {
    const std::string base = "model.layers.0.mlp.experts.";
    add(base + "gate_up_proj_blocks", DType::kU8, {kExperts, 2 * kWidth, kHidden / 32, 16});
    add_scales(base + "gate_up_proj_scales", DType::kU8, {kExperts, 2 * kWidth, kHidden / 32});
    add(base + "gate_up_proj_bias", DType::kBF16, {kExperts, 2 * kWidth}, 0, 60);
    add(base + "down_proj_blocks", DType::kU8, {kExperts, kHidden, kWidth / 32, 16});
    add_scales(base + "down_proj_scales", DType::kU8, {kExperts, kHidden, kWidth / 32});
    add(base + "down_proj_bias", DType::kBF16, {kExperts, kHidden}, 0, 60);
  }
  // DeepSeek-V4's own experts: other names and dtypes for the same bytes.
  void add_deepseek() {
    for (int64_t e = 0; e < kExperts; ++e) {
      const std::string base = "layers.0.ffn.experts." + std::to_string(e) + ".";
      for (const char* name : {"w1", "w2", "w3"}) {
        const bool down = std::string(name) == "w2";
        const int64_t n = down ? kHidden : kWidth, k = down ? kWidth : kHidden;
        add(base + name + ".weight", DType::kI8, {n, k / 2});
        add_scales(base + name + ".scale", DType::kF8E8M0, {n, k / 32});
      }
    }
  }
  void add_one_by_one(const std::string& weight, DType scale_dtype) {
    for (int64_t e = 0; e < kExperts; ++e) {
      const std::string base = "model.layers.0.mlp.experts." + std::to_string(e) + ".";
      for (const char* name : {"gate_proj", "up_proj", "down_proj"}) {
        const bool down = std::string(name) == "down_proj";
        const int64_t n = down ? kHidden : kWidth, k = down ? kWidth : kHidden;
        add(base + name + weight, DType::kU8, {n, k / 2});
        add_scales(base + name + ".weight_scale", scale_dtype, {n, k / 32});
      }
    }
  }

  void write_config(const std::string& quantization, const std::string& model_type = "qwen3_moe") {
    std::ofstream(directory_ / "config.json")
        << R"({"model_type": ")" << model_type << R"(", "moe_intermediate_size": 64,
               "hidden_size": 96, "n_routed_experts": 2, "scoring_func": "softmax",
               "num_experts": 2, "num_experts_per_tok": 1, "num_hidden_layers": 1,
               "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
               "vocab_size": 8, "hidden_act": "silu", "intermediate_size": 64)"
        << (quantization.empty() ? "" : ", \"quantization_config\": " + quantization) << "}";
  }
  MoeLayerWeights open(const std::string& quantization = "",
                       const std::string& model_type = "qwen3_moe") {
    write_config(quantization, model_type);
    std::vector<NamedTensor> named;
    for (const auto& [name, tensor] : tensors_) {
      named.push_back({name, {tensor.bytes.data(), tensor.dtype, tensor.shape, 0}});
    }
    write_safetensors(directory_ / "model.safetensors", named);
    checkpoint_ = Checkpoint::open(directory_);
    return checkpoint_->moe_layer(0);
  }
  std::string refusal() {
    try {
      open();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      return error.what();
    }
    return "nothing was refused";
  }

  // Rows first, first + step, ... of a matrix of codes and scales of `k` columns.
  void expect_rows(const LinearWeights& linear, const Tensor& codes, const Tensor& scales,
                   int64_t first, int64_t step) {
    const int64_t k = linear.in_features;
    EXPECT_EQ(linear.scheme, kMxfp4W4A16);
    std::vector<float> row(k);
    for (int64_t r = 0; r < linear.out_features; ++r) {
      dequantize_row(linear, r, row.data());
      const int64_t at = first + r * step;
      for (int64_t i = 0; i < k; ++i) {
        const uint8_t byte = codes.bytes[at * k / 2 + i / 2];
        const auto code = static_cast<uint8_t>(i % 2 == 0 ? byte & 15 : byte >> 4);
        ASSERT_EQ(static_cast<double>(row[i]), value(code, scales.bytes[at * k / 32 + i / 32]))
            << linear.name << " row " << r << " column " << i;
      }
    }
  }

  fs::path directory_;
  std::mt19937 random_{1};
  std::map<std::string, Tensor> tensors_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_F(Mxfp4Checkpoint, RowsOfGateAndUpAlternateInGptOss) {
  add_gpt_oss();
  const MoeLayerWeights weights = open();
  EXPECT_EQ(weights.scheme, kMxfp4W4A16);
  const auto tensor = [&](const char* name) -> const Tensor& {
    return tensors_.at(std::string("model.layers.0.mlp.experts.") + name);
  };
  for (int64_t e = 0; e < kExperts; ++e) {
    const ExpertWeights& expert = weights.experts[e];
    expect_rows(*expert.gate, tensor("gate_up_proj_blocks"), tensor("gate_up_proj_scales"),
                e * 2 * kWidth, 2);
    expect_rows(expert.up, tensor("gate_up_proj_blocks"), tensor("gate_up_proj_scales"),
                e * 2 * kWidth + 1, 2);
    expect_rows(expert.down, tensor("down_proj_blocks"), tensor("down_proj_scales"), e * kHidden,
                1);
    const auto bias = [](const Tensor& from, int64_t i) {
      float x;
      convert_to_float(from.bytes.data() + 2 * i, DType::kBF16, 1, &x);
      return x;
    };
    for (int64_t i = 0; i < kWidth; ++i) {
      const int64_t row = e * 2 * kWidth + 2 * i;
      EXPECT_EQ(bias_at(*expert.gate, i), bias(tensor("gate_up_proj_bias"), row));
      EXPECT_EQ(bias_at(expert.up, i), bias(tensor("gate_up_proj_bias"), row + 1));
    }
    for (int64_t h = 0; h < kHidden; ++h) {
      EXPECT_EQ(bias_at(expert.down, h), bias(tensor("down_proj_bias"), e * kHidden + h));
    }
  }
}

TEST_F(Mxfp4Checkpoint, ExpertsStoredOneByOneAreTakenUnderEitherNameAndScaleType) {
  for (const char* weight : {".weight", ".weight_packed"}) {
    for (const DType dtype : {DType::kU8, DType::kF8E8M0}) {
      tensors_.clear();
      add_one_by_one(weight, dtype);
      const MoeLayerWeights weights = open();
      const std::string base = "model.layers.0.mlp.experts.1.";
      const auto expect = [&](const LinearWeights& linear, const std::string& name) {
        expect_rows(linear, tensors_.at(base + name + weight),
                    tensors_.at(base + name + ".weight_scale"), 0, 1);
      };
      expect(*weights.experts[1].gate, "gate_proj");
      expect(weights.experts[1].up, "up_proj");
      expect(weights.experts[1].down, "down_proj");
    }
  }
}

TEST_F(Mxfp4Checkpoint, DeepSeeksExpertsAreTheSameFromTensorsHeadersAndMetadata) {
  const std::string fp8 =
      R"({"quant_method": "fp8", "weight_block_size": [128, 128]}, "expert_dtype": "fp4")";
  add_deepseek();
  const MoeLayerWeights weights = open(fp8, "deepseek_v4");
  for (int64_t e = 0; e < kExperts; ++e) {
    const std::string base = "layers.0.ffn.experts." + std::to_string(e) + ".";
    const auto expect = [&](const LinearWeights& linear, const std::string& name) {
      EXPECT_EQ(linear.weight.dtype, DType::kU8);  // what backends know
      expect_rows(linear, tensors_.at(base + name + ".weight"), tensors_.at(base + name + ".scale"),
                  0, 1);
    };
    expect(*weights.experts[e].gate, "w1");
    expect(weights.experts[e].up, "w3");
    expect(weights.experts[e].down, "w2");
  }
  const auto summary = [&] {
    const auto checkpoint = Checkpoint::open(directory_, {.headers_only = true});
    return checkpoint->moe_layer_summary(0);
  };
  const MoeLayerSummary headers = summary();
  fs::remove(directory_ / "model.safetensors");
  for (const MoeLayerSummary& found : {headers, summary()}) {
    EXPECT_EQ(found.error, "");
    EXPECT_EQ(found.unsupported, "");
    EXPECT_EQ(found.scheme, kMxfp4W4A16);
  }
}

TEST_F(Mxfp4Checkpoint, SignedBytesAreCodesOnlyBesidePowersOfTwo) {
  for (const DType dtype : {DType::kU8, DType::kF32, DType::kF8E4M3}) {
    tensors_.clear();
    add_deepseek();
    tensors_["layers.0.ffn.experts.1.w3.scale"].dtype = dtype;
    tensors_["layers.0.ffn.experts.1.w3.scale"].bytes.resize(kWidth * (kHidden / 32) *
                                                             size_of(dtype));
    EXPECT_THAT(refusal(), AllOf(HasSubstr("layers.0.ffn.experts.1.w3.weight"),
                                 HasSubstr("8-bit integer weights"), HasSubstr("found I8")))
        << to_string(dtype);
  }
}

TEST_F(Mxfp4Checkpoint, AScaleOf255IsRefusedByTensor) {
  add_gpt_oss();
  const std::string name = "model.layers.0.mlp.experts.gate_up_proj_scales";
  tensors_[name].bytes[(2 * kWidth + 3) * kHidden / 32 + 2] = 255;  // expert 1, row 1 of up
  EXPECT_THAT(refusal(), AllOf(HasSubstr(name), HasSubstr("NaN"), HasSubstr("[1, 2]"),
                               HasSubstr("experts.1.up_proj")));
}

TEST_F(Mxfp4Checkpoint, TensorsThatDoNotFitAreRefusedByName) {
  const std::string base = "model.layers.0.mlp.experts.";
  add_gpt_oss();
  tensors_.erase(base + "down_proj_scales");
  EXPECT_THAT(refusal(), HasSubstr(base + "down_proj_scales"));
  for (const char* bias : {"gate_up_proj_bias", "down_proj_bias"}) {
    add_gpt_oss();
    tensors_.erase(base + bias);
    EXPECT_THAT(refusal(), HasSubstr(base + bias));
  }
  add_gpt_oss();
  add(base + "gate_up_proj_bias", DType::kBF16, {kExperts, kWidth});
  EXPECT_THAT(refusal(), HasSubstr(base + "gate_up_proj_bias"));
  add_gpt_oss();
  add(base + "gate_up_proj_scales", DType::kU8, {kExperts, 2 * kWidth, kHidden / 16});
  EXPECT_THAT(refusal(), AllOf(HasSubstr(base + "gate_up_proj_scales"), HasSubstr("[2, 128, 3]")));
  add_gpt_oss();
  add(base + "gate_up_proj_bias", DType::kI32, {kExperts, 2 * kWidth});
  EXPECT_THAT(refusal(), HasSubstr(base + "gate_up_proj_bias"));
  tensors_.clear();
  add_one_by_one(".weight", DType::kU8);
  add(base + "1.up_proj.weight_scale_2", DType::kF32, {1}, 60, 62);
  EXPECT_THAT(refusal(), AllOf(HasSubstr("weight_scale_2"), HasSubstr("global scale")));
}

}  // namespace
}  // namespace moe4
