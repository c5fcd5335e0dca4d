// Blocks of every type against gguf-py's decoder (tests/data/gguf/blocks.safetensors), bit for bit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>

#include "numerics/ggml_blocks.h"
#include "numerics/mxfp4.h"
#include "numerics/nvfp4.h"
#include "support/golden.h"

namespace moe4 {
namespace {

constexpr int64_t kElements = 1024;

struct Blocks {
  std::vector<std::byte> bytes;
  std::vector<float> values;  // gguf-py's

  explicit Blocks(const std::string& type) {
    const auto file = SafetensorsFile::open(MOE4_TEST_DATA "/gguf/blocks.safetensors");
    const TensorView blocks = file->tensor(type + ".blocks");
    const auto* from = static_cast<const std::byte*>(blocks.data);
    bytes.assign(from, from + blocks.num_bytes());
    values = testing::Golden(MOE4_TEST_DATA "/gguf/blocks.safetensors").floats(type + ".values");
  }
};

// As bits, so that zeros have their signs.
std::vector<uint32_t> bits(const std::vector<float>& values) {
  std::vector<uint32_t> out;
  out.reserve(values.size());
  for (const float value : values) out.push_back(std::bit_cast<uint32_t>(value));
  return out;
}

class FloatBlocks : public ::testing::TestWithParam<std::pair<const char*, GgmlTypeId>> {};

TEST_P(FloatBlocks, AreThoseOfGgufPyBitForBit) {
  const auto& [name, type] = GetParam();
  const Blocks blocks(name);
  std::vector<float> values(kElements);
  decode_ggml_floats(type, blocks.bytes.data(), kElements, values.data());
  EXPECT_EQ(bits(values), bits(blocks.values));
}

INSTANTIATE_TEST_SUITE_P(All, FloatBlocks,
                         ::testing::Values(std::pair{"Q8_0", GgmlTypeId::kQ8_0},
                                           std::pair{"Q4_K", GgmlTypeId::kQ4_K},
                                           std::pair{"Q6_K", GgmlTypeId::kQ6_K}),
                         [](const auto& info) { return std::string(info.param.first); });

// Of -0, gguf-py makes +0.
TEST(Blocks, Nvfp4CodesTimesScalesAreTheValuesOfGgufPy) {
  const Blocks blocks("NVFP4");
  std::vector<uint8_t> codes(kElements / 2), scales(kElements / 16);
  unpack_ggml_nvfp4_codes(blocks.bytes.data(), kElements, codes.data());
  unpack_ggml_nvfp4_scales(blocks.bytes.data(), kElements, scales.data());
  for (int64_t i = 0; i < kElements; ++i) {
    EXPECT_EQ(e2m1_to_float(nvfp4_code(codes.data(), i)) * e4m3_to_float(scales[i / 16]),
              blocks.values[i])
        << i;
  }
}

TEST(Blocks, Mxfp4CodesTimesScalesAreTheValuesOfGgufPy) {
  const Blocks blocks("MXFP4");
  std::vector<uint8_t> codes(kElements / 2), scales(kElements / 32);
  unpack_ggml_mxfp4_codes(blocks.bytes.data(), kElements, codes.data());
  unpack_ggml_mxfp4_scales(blocks.bytes.data(), kElements, scales.data());
  for (int64_t i = 0; i < kElements; ++i) {
    EXPECT_EQ(mxfp4_value(mxfp4_code(codes.data(), i), scales[i / 32]), blocks.values[i]) << i;
  }
}

TEST(Blocks, PlainTypesAreWhatTheyAre) {
  const uint16_t halves[] = {0x3c00, 0xbc00, 0x7bff, 0x0001, 0x8000};
  std::vector<float> values(5);
  decode_ggml_floats(GgmlTypeId::kF16, reinterpret_cast<const std::byte*>(halves), 5,
                     values.data());
  EXPECT_EQ(bits(values), bits({1.0f, -1.0f, 65504.0f, 0x1p-24f, -0.0f}));
  const uint16_t brains[] = {0x3f80, 0xc000, 0x0001, 0x8000, 0x7f7f};
  decode_ggml_floats(GgmlTypeId::kBF16, reinterpret_cast<const std::byte*>(brains), 5,
                     values.data());
  EXPECT_EQ(bits(values), bits({1.0f, -2.0f, std::bit_cast<float>(0x00010000u), -0.0f,
                                std::bit_cast<float>(0x7f7f0000u)}));
}

}  // namespace
}  // namespace moe4
