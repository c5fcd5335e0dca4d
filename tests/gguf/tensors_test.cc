// Tensors under the folder's names: bit for bit those of the folder that llama.cpp's converter
// read, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "gguf/gguf_writer.h"
#include "moe/dequantize.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Each;
using testing::GgufBytes;
using testing::GgufWriter;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TempDir;

fs::path data() { return fs::path(MOE4_TEST_DATA) / "gguf"; }

std::string rows_of(const TensorView& view) {
  std::string bytes;
  const int64_t rows = view.shape.at(0);
  const auto row_bytes = static_cast<size_t>(view.num_bytes() / rows);
  for (int64_t r = 0; r < rows; ++r) {
    bytes.append(reinterpret_cast<const char*>(view.row(r)), row_bytes);
  }
  return bytes;
}

void expect_equal(const LinearWeights& a, const LinearWeights& b) {
  EXPECT_EQ(a.scheme.weight, b.scheme.weight);
  EXPECT_EQ(a.out_features, b.out_features);
  EXPECT_EQ(a.in_features, b.in_features);
  EXPECT_EQ(a.global_scale.value, b.global_scale.value);
  EXPECT_EQ(rows_of(a.weight), rows_of(b.weight));
  if (b.scale.empty()) return;
  EXPECT_EQ(rows_of(a.scale), rows_of(b.scale));
}

void expect_equal(const MoeLayerWeights& a, const MoeLayerWeights& b) {
  ASSERT_EQ(a.experts.size(), b.experts.size());
  for (size_t e = 0; e < a.experts.size(); ++e) {
    ASSERT_TRUE(a.experts[e].gate && b.experts[e].gate);
    expect_equal(*a.experts[e].gate, *b.experts[e].gate);
    expect_equal(a.experts[e].up, b.experts[e].up);
    expect_equal(a.experts[e].down, b.experts[e].down);
  }
}

TEST(GgufTensors, Nvfp4IsTheModelOptFolderBitForBit) {
  const auto file = Checkpoint::open(data() / "qwen3_moe_nvfp4.gguf");
  const auto folder = Checkpoint::open(data() / "qwen3_moe_nvfp4");
  expect_equal(file->moe_layer(0), folder->moe_layer(0));
  ASSERT_TRUE(file->moe_layer(0).scheme.is_nvfp4());
  for (const char* projection : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    const std::string module = std::string("model.layers.0.self_attn.") + projection;
    expect_equal(file->linear(module), folder->linear(module));
    EXPECT_TRUE(file->linear(module).scheme.is_nvfp4());
  }
}

TEST(GgufTensors, Mxfp4IsTheGptOssFolderBitForBit) {
  const auto file = Checkpoint::open(data() / "gpt_oss_mxfp4.gguf");
  const auto folder = Checkpoint::open(fs::path(MOE4_TEST_DATA) / "checkpoints/gpt_oss-mxfp4");
  ASSERT_EQ(file->config().num_layers, 2);
  for (int64_t layer = 0; layer < 2; ++layer) {
    expect_equal(file->moe_layer(layer), folder->moe_layer(layer));
    ASSERT_TRUE(file->moe_layer(layer).scheme.is_mxfp4());
  }
}

TEST(GgufTensors, HeadersAloneMakeNothing) {
  const auto file = Checkpoint::open(data() / "qwen3_moe_nvfp4.gguf", {.headers_only = true});
  const MoeLayerWeights layer = file->moe_layer(0);
  EXPECT_TRUE(layer.experts[0].up.weight.empty());
  EXPECT_TRUE(layer.memory.empty());
  EXPECT_EQ(layer.experts[0].up.in_features, 64);
}

TEST(GgufTensors, QuantisedFloatsBecomeFloat32ButForLinearsOfQ8) {
  const auto file = Checkpoint::open(data() / "qwen3_moe_quantised.gguf");
  const LinearWeights q = file->linear("model.layers.0.self_attn.q_proj");
  EXPECT_EQ(q.weight.dtype, DType::kF32);
  const LinearWeights v = file->linear("model.layers.0.self_attn.v_proj");
  EXPECT_EQ(to_string(v.scheme), "Q8_0");
  EXPECT_EQ(v.in_features, 256);
  EXPECT_EQ(v.weight.num_bytes(), 16 * 256 / 32 * 34);
  EXPECT_EQ(file->linear("model.layers.0.self_attn.o_proj").weight.dtype, DType::kF16);
  EXPECT_EQ(file->moe_layer(0).experts[0].up.weight.dtype, DType::kF32);
}

// The smallest Qwen3-MoE whose header is in order.
GgufWriter small() {
  GgufWriter file;
  file.text("general.architecture", "qwen3moe").u32("qwen3moe.block_count", 1);
  file.u32("qwen3moe.embedding_length", 32).u32("qwen3moe.attention.head_count", 2);
  file.u32("qwen3moe.attention.head_count_kv", 1).u32("qwen3moe.expert_count", 2);
  file.u32("qwen3moe.expert_used_count", 1).u32("qwen3moe.expert_feed_forward_length", 32);
  file.floats("token_embd.weight", {32, 4}, std::vector<float>(128));
  file.floats("blk.0.attn_norm.weight", {32}, std::vector<float>(32));
  return file;
}

// Blocks of Q8_0 whose values are all different.
std::string q8_blocks(int64_t count) {
  std::string bytes;
  for (int64_t b = 0; b < count; ++b) {
    const auto factor = static_cast<uint16_t>(0x2000 + b);
    bytes.append(reinterpret_cast<const char*>(&factor), 2);
    for (int64_t i = 0; i < 32; ++i) bytes.push_back(static_cast<char>(7 * b + 5 * i));
  }
  return bytes;
}

// The blocks of linear() are what tensor() decodes.
void expect_blocks_are_the_floats(const Checkpoint& checkpoint, const std::string& module) {
  SCOPED_TRACE(module);
  const LinearWeights linear = checkpoint.linear(module);
  EXPECT_TRUE(linear.scheme.is_ggml());
  EXPECT_TRUE(checkpoint.block_format(module + ".weight").has_value());
  const TensorView floats = checkpoint.tensor(module + ".weight");
  ASSERT_EQ(floats.shape, (std::vector<int64_t>{linear.out_features, linear.in_features}));
  ASSERT_EQ(floats.dtype, DType::kF32);
  std::vector<float> row(static_cast<size_t>(linear.in_features));
  for (int64_t r = 0; r < linear.out_features; ++r) {
    dequantize_row(linear, r, row.data());
    ASSERT_EQ(std::memcmp(row.data(), floats.row(r), row.size() * sizeof(float)), 0) << "row " << r;
  }
}

TEST(GgufTensors, BlocksOfLinearsAreInTheFile) {
  const auto file = Checkpoint::open(data() / "qwen3_moe_quantised.gguf");
  expect_blocks_are_the_floats(*file, "model.layers.0.self_attn.v_proj");
  MadeTensors made;
  (void)file->linear("model.layers.0.self_attn.v_proj", -1, -1, &made);
  EXPECT_TRUE(made.empty());
  EXPECT_FALSE(file->block_format("model.layers.0.self_attn.o_proj.weight").has_value());
}

// Rows of q and k in pairs that rotate together.
TEST(GgufTensors, BlocksFollowTheOrderOfRows) {
  GgufWriter file;
  file.text("general.architecture", "llama").u32("llama.block_count", 1);
  file.u32("llama.embedding_length", 64).u32("llama.attention.head_count", 2);
  file.u32("llama.attention.head_count_kv", 1).u32("llama.expert_count", 2);
  file.u32("llama.expert_used_count", 1).u32("llama.feed_forward_length", 32);
  file.floats("token_embd.weight", {64, 4}, std::vector<float>(256));
  file.tensor("blk.0.attn_q.weight", {64, 16}, 8, q8_blocks(32));
  file.tensor("blk.0.attn_k.weight", {64, 8}, 8, q8_blocks(16));
  TempDir dir;
  file.write(dir / "m.gguf");
  const auto checkpoint = Checkpoint::open(dir / "m.gguf");
  expect_blocks_are_the_floats(*checkpoint, "model.layers.0.self_attn.q_proj");
  expect_blocks_are_the_floats(*checkpoint, "model.layers.0.self_attn.k_proj");
}

// Value heads tiled over key heads, in rows and in columns of out_proj.
TEST(GgufTensors, BlocksFollowTheOrderOfColumnsUnlessThatCutsThem) {
  for (const uint32_t head : {32u, 16u}) {
    const uint32_t heads = 6 * head;
    GgufWriter file;
    file.text("general.architecture", "qwen35moe").u32("qwen35moe.block_count", 1);
    file.u32("qwen35moe.embedding_length", 32).u32("qwen35moe.attention.head_count", 2);
    file.u32("qwen35moe.attention.head_count_kv", 1).u32("qwen35moe.expert_count", 2);
    file.u32("qwen35moe.expert_used_count", 1).u32("qwen35moe.expert_feed_forward_length", 32);
    file.u32("qwen35moe.ssm.conv_kernel", 4).u32("qwen35moe.ssm.state_size", 16);
    file.u32("qwen35moe.ssm.group_count", 2).u32("qwen35moe.ssm.time_step_rank", 6);
    file.u32("qwen35moe.ssm.inner_size", heads);
    file.floats("token_embd.weight", {32, 4}, std::vector<float>(128));
    file.tensor("blk.0.ssm_out.weight", {heads, 2}, 8, q8_blocks(heads / 16));
    file.tensor("blk.0.attn_gate.weight", {32, heads}, 8, q8_blocks(heads));
    TempDir dir;
    file.write(dir / "m.gguf");
    const auto checkpoint = Checkpoint::open(dir / "m.gguf");
    expect_blocks_are_the_floats(*checkpoint, "model.layers.0.linear_attn.in_proj_z");
    const std::string out = "model.layers.0.linear_attn.out_proj";
    if (head == 32) {
      expect_blocks_are_the_floats(*checkpoint, out);
    } else {
      EXPECT_EQ(checkpoint->linear(out).weight.dtype, DType::kF32);
    }
  }
}

// The converter writes the shared expert's gate as [1, hidden], llama-quantize as [hidden].
TEST(GgufTensors, AMatrixOfOneRowMayBeAVector) {
  std::vector<float> values(32);
  std::iota(values.begin(), values.end(), 1.0f);
  const std::string floats(reinterpret_cast<const char*>(values.data()), 32 * sizeof(float));
  const std::string blocks = q8_blocks(1);
  for (const std::vector<uint64_t>& shape : {std::vector<uint64_t>{32}, {32, 1}}) {
    for (const bool is_q8 : {false, true}) {
      GgufWriter file;
      file.text("general.architecture", "qwen3next").u32("qwen3next.block_count", 1);
      file.u32("qwen3next.embedding_length", 32).u32("qwen3next.attention.head_count", 2);
      file.u32("qwen3next.attention.head_count_kv", 1).u32("qwen3next.expert_count", 2);
      file.u32("qwen3next.expert_used_count", 1);
      file.u32("qwen3next.expert_feed_forward_length", 32);
      file.u32("qwen3next.ssm.conv_kernel", 4).u32("qwen3next.ssm.state_size", 16);
      file.u32("qwen3next.ssm.group_count", 2).u32("qwen3next.ssm.time_step_rank", 2);
      file.u32("qwen3next.ssm.inner_size", 32);
      file.floats("token_embd.weight", {32, 4}, std::vector<float>(128));
      file.tensor("blk.0.ffn_gate_inp_shexp.weight", shape, is_q8 ? 8 : 0, is_q8 ? blocks : floats);
      TempDir dir;
      file.write(dir / "m.gguf");
      const auto checkpoint = Checkpoint::open(dir / "m.gguf");
      const LinearWeights gate = checkpoint->linear("model.layers.0.mlp.shared_expert_gate", 1, 32);
      const std::string& expected = is_q8 ? blocks : floats;
      ASSERT_EQ(gate.weight.num_bytes(), static_cast<int64_t>(expected.size()));
      EXPECT_EQ(std::memcmp(gate.weight.row(0), expected.data(), expected.size()), 0);
    }
  }
}

std::string error_of(const GgufWriter& file, const char* module = nullptr) {
  TempDir dir;
  file.write(dir / "m.gguf");
  try {
    const auto checkpoint = Checkpoint::open(dir / "m.gguf");
    if (module != nullptr) (void)checkpoint->linear(module);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.what(), HasSubstr("m.gguf"));
    return error.what();
  }
  return "";
}

TEST(GgufTensors, OfASmallFileAreFound) { EXPECT_EQ(error_of(small()), ""); }

TEST(GgufTensors, OfAFolderTheFileIsToBeGiven) {
  TempDir dir;
  small().write(dir / "m.gguf");
  try {
    (void)Checkpoint::open(dir.path());
    ADD_FAILURE() << "opened";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("no config.json"), HasSubstr("m.gguf")));
  }
}

TEST(GgufTensors, UnknownArchitecturesAndKeysAreNamed) {
  EXPECT_THAT(
      error_of(GgufWriter().text("general.architecture", "rwkv7")),
      AllOf(HasSubstr("architecture is not supported"), HasSubstr("qwen3moe"), HasSubstr("rwkv7")));
  EXPECT_THAT(error_of(GgufWriter().u32("x", 1)), HasSubstr("key general.architecture"));
  EXPECT_THAT(error_of(small().f32("qwen3moe.new_scale", 2)),
              AllOf(HasSubstr("unsupported key"), HasSubstr("qwen3moe.new_scale")));
  EXPECT_THAT(error_of(small().text("qwen3moe.rope.scaling.type", "longrope")),
              AllOf(HasSubstr("rope.scaling.type"), HasSubstr("longrope")));
  EXPECT_THAT(error_of(GgufWriter().text("general.architecture", "qwen3moe")),
              AllOf(HasSubstr("lacks a key"), HasSubstr("qwen3moe.block_count")));
}

TEST(GgufTensors, NumbersOfLayersAreBoundedBeforeListsAreMade) {
  for (const uint32_t blocks : {0u, 0x7fffffffu, 0xffffffffu}) {
    GgufWriter file;
    file.text("general.architecture", "qwen3moe").u32("qwen3moe.block_count", blocks);
    EXPECT_THAT(error_of(file), HasSubstr("block_count"));
  }
}

TEST(GgufTensors, OtherElementTypesAreNamedWhenTheyAreUsed) {
  const std::string row(18, '\0');
  GgufWriter file = small();
  file.tensor("blk.0.attn_q.weight", {32, 1}, 2, row);  // Q4_0
  EXPECT_EQ(error_of(file), "");
  EXPECT_THAT(error_of(file, "model.layers.0.self_attn.q_proj"),
              AllOf(HasSubstr("element type is not supported"), HasSubstr("Q4_0"),
                    HasSubstr("blk.0.attn_q.weight")));
  GgufWriter unknown = small();
  unknown.tensor("blk.0.attn_q.weight", {32, 1}, 999, row);
  EXPECT_THAT(error_of(unknown, "model.layers.0.self_attn.q_proj"), HasSubstr("type 999"));
}

// As linears, and where they become floats.
TEST(GgufTensors, FactorsThatAreNoNumbersAreNamed) {
  for (const char bits : {0x7c, 0x7e}) {
    std::string blocks = q8_blocks(4);
    blocks[3 * 34 + 1] = bits;
    GgufWriter file = small();
    file.tensor("blk.0.attn_q.weight", {64, 2}, 8, blocks);
    EXPECT_THAT(
        error_of(file, "model.layers.0.self_attn.q_proj"),
        AllOf(HasSubstr("Q8_0 block with a factor that is no number"),
              HasSubstr("model.layers.0.self_attn.q_proj.weight"), HasSubstr("block 1 of row 1")));
    GgufWriter experts = small();
    experts.tensor("blk.0.ffn_up_exps.weight", {32, 2, 2}, 8, blocks);
    TempDir dir;
    experts.write(dir / "m.gguf");
    const auto checkpoint = Checkpoint::open(dir / "m.gguf");
    try {
      (void)checkpoint->tensor("model.layers.0.mlp.experts.up_proj.weight");
      ADD_FAILURE() << "decoded";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      EXPECT_THAT(error.what(), AllOf(HasSubstr("m.gguf"), HasSubstr("blk.0.ffn_up_exps.weight"),
                                      HasSubstr("block 0 of row 3")));
    }
  }
}

TEST(GgufTensors, ScalesBelongToNvfp4) {
  GgufWriter file = small();
  file.floats("blk.0.attn_q.weight", {32, 1}, std::vector<float>(32));
  file.floats("blk.0.attn_q.scale", {1}, {2});
  EXPECT_THAT(error_of(file), AllOf(HasSubstr("scale beside a tensor that is not NVFP4"),
                                    HasSubstr("blk.0.attn_q.scale")));
  GgufWriter half = small();
  half.tensor("blk.0.attn_q.scale", {1}, 1, std::string(2, '\0'));
  EXPECT_THAT(error_of(half), HasSubstr("wrong type"));
}

// Blocks of NVFP4 without a `.scale` are complete by themselves.
TEST(GgufTensors, Nvfp4WithoutAScaleHasOne) {
  GgufWriter file = small();
  std::string block(36, '\0');
  block[0] = 0x38;  // 1.0
  block[4] = 0x52;  // elements 0 and 8: 1 and 3
  file.tensor("blk.0.attn_q.weight", {64, 1}, 40, block);
  TempDir dir;
  file.write(dir / "m.gguf");
  const auto checkpoint = Checkpoint::open(dir / "m.gguf");
  const LinearWeights q = checkpoint->linear("model.layers.0.self_attn.q_proj");
  EXPECT_EQ(q.global_scale.value, 1.0f);
  const auto* codes = static_cast<const uint8_t*>(q.weight.data);
  EXPECT_EQ(codes[0], 0x02);
  EXPECT_EQ(codes[4], 0x05);
}

// Factors of Gemma-4's experts stand beside their last projection, and are within the global scales
// of NVFP4 then.
TEST(GgufTensors, ScalesOfGemma4sExpertsAreFactorsUnlessTheWeightIsNvfp4) {
  const auto names = [](const char* file) {
    const auto checkpoint = Checkpoint::open(data() / file);
    const TensorView scale = checkpoint->tensor("model.layers.0.router.per_expert_scale");
    EXPECT_EQ(scale.shape, std::vector<int64_t>{4});
    return std::vector<float>(scale.as<float>(), scale.as<float>() + 4);
  };
  EXPECT_THAT(names("gemma4.gguf"), Not(Each(1.0f)));
  EXPECT_THAT(names("gemma4_nvfp4.gguf"), Each(1.0f));
}

TEST(GgufTensors, TwoOfOneNameAndNormsInFourBitsAreRefused) {
  GgufWriter file = small();
  file.floats("blk.00.attn_norm.weight", {32}, std::vector<float>(32));
  EXPECT_EQ(error_of(file), "");  // layer "00" is nobody's and is refused with the unread ones
  GgufWriter norm = small();
  norm.tensor("blk.0.ffn_norm.bias", {64}, 40, std::string(36, '\0'));
  EXPECT_THAT(error_of(norm), HasSubstr("4-bit tensor is no weight"));
}

}  // namespace
}  // namespace moe4
