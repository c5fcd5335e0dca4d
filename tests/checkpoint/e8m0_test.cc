// FP8 linears whose scales are powers of two: what Checkpoint::linear() makes of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "checkpoint/checkpoint.h"
#include "moe/dequantize.h"
#include "numerics/bf16.h"
#include "numerics/e4m3.h"
#include "support/editable_checkpoint.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using testing::EditableCheckpoint;
using testing::EditableTensor;
using ::testing::HasSubstr;
using testing::TempDir;

const std::string kFolder = "minimax_m3-modelopt-mixed";
const std::string kModule = "language_model.model.layers.1.self_attn.o_proj";  // [64, 128]

std::unique_ptr<Checkpoint> open(const EditableCheckpoint& edited, const TempDir& dir,
                                 bool headers_only = false) {
  edited.write(dir.path());
  return Checkpoint::open(dir.path(), {.headers_only = headers_only});
}

// What a change makes of linear(kModule); "" when nothing is wrong.
std::string error_after(const std::function<void(EditableCheckpoint&)>& change) {
  EditableCheckpoint edited(kFolder);
  change(edited);
  TempDir dir;
  try {
    (void)open(edited, dir)->linear(kModule);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    return error.what();
  }
  return "";
}

uint8_t byte_of(const EditableTensor& tensor, int64_t i) {
  return static_cast<uint8_t>(tensor.bytes.at(static_cast<size_t>(i)));
}

TEST(E8m0, GroupsOf32BecomeBf16Exactly) {
  EditableCheckpoint edited(kFolder);
  for (const DType dtype : {DType::kU8, DType::kF8E8M0}) {
    edited.tensors.at(kModule + ".weight_scale").dtype = dtype;
    TempDir dir;
    const auto checkpoint = open(edited, dir);
    const LinearWeights linear = checkpoint->linear(kModule, 64, 128);
    EXPECT_EQ(linear.scheme, kUnquantized);
    ASSERT_EQ(linear.weight.dtype, DType::kBF16);
    EXPECT_EQ(linear.weight.shape, (std::vector<int64_t>{64, 128}));
    EXPECT_TRUE(linear.scale.empty());
    const EditableTensor& codes = edited.tensors.at(kModule + ".weight");
    const EditableTensor& scales = edited.tensors.at(kModule + ".weight_scale");
    int64_t not_zero = 0;
    for (int64_t i = 0; i < 64 * 128; ++i) {
      const double expected = static_cast<double>(e4m3_to_float(byte_of(codes, i))) *
                              std::ldexp(1.0, byte_of(scales, i / 32) - 127);
      ASSERT_EQ(static_cast<double>(to_float(linear.weight.as<Bf16>()[i])), expected) << i;
      not_zero += expected != 0 ? 1 : 0;
    }
    EXPECT_GT(not_zero, 4000);
    const auto names = checkpoint->tensors_of_linear(kModule);
    EXPECT_THAT(names,
                ::testing::UnorderedElementsAre(kModule + ".weight", kModule + ".weight_scale"));
  }
}

TEST(E8m0, HeadersHaveTheSameSchemeAndNoData) {
  const EditableCheckpoint edited(kFolder);
  TempDir dir;
  for (const bool headers_only : {false, true}) {
    const LinearWeights linear = open(edited, dir, headers_only)->linear_header(kModule, 64, 128);
    EXPECT_EQ(linear.scheme, kUnquantized);
    EXPECT_EQ(linear.weight.dtype, DType::kBF16);
    EXPECT_EQ(linear.weight.data, nullptr);
  }
}

TEST(E8m0, TheMetadataIsNotedAsWhatItIs) {
  TempDir dir;
  const auto checkpoint = open(EditableCheckpoint(kFolder), dir);
  std::string notes;
  for (const CheckpointNote& note : checkpoint->notes()) {
    EXPECT_EQ(note.level, CheckpointNote::Level::kInfo) << note.message;
    notes += note.message + "\n";
  }
  EXPECT_THAT(notes, HasSubstr("is MXFP8, which is decoded to BF16; its activations stay BF16"));
}

TEST(E8m0, WhatBf16DoesNotHoldIsRefusedByTensor) {
  const auto with = [](const char* suffix, int value) {
    return error_after([=](EditableCheckpoint& c) {
      c.tensors.at(kModule + suffix).bytes[5] = static_cast<std::byte>(value);
    });
  };
  EXPECT_EQ(with(".weight_scale", 127), "");
  EXPECT_THAT(with(".weight_scale", 255), HasSubstr("block scale is NaN"));
  EXPECT_THAT(with(".weight_scale", 254), HasSubstr("out of BF16's range"));
  EXPECT_THAT(with(".weight_scale", 254), HasSubstr("tensor " + kModule + ".weight"));
  EXPECT_THAT(with(".weight", 0x7f), HasSubstr("found byte 0x7f at [0, 5]"));
  // 2^-127 times values of 64 and more is a normal number, times 2^-9 it is none at all.
  const auto smallest = [](int code) {
    return error_after([=](EditableCheckpoint& c) {
      c.tensors.at(kModule + ".weight_scale").bytes[0] = std::byte{0};
      for (int i = 0; i < 32; ++i) {
        c.tensors.at(kModule + ".weight").bytes[i] = static_cast<std::byte>(code);
      }
    });
  };
  EXPECT_EQ(smallest(0x78), "");
  EXPECT_THAT(smallest(0x01), HasSubstr("out of BF16's range"));
}

TEST(E8m0, GroupsOfAnotherSizeAreRefusedByTensor) {
  EXPECT_THAT(error_after([](EditableCheckpoint& c) {
                EditableTensor& scale = c.tensors.at(kModule + ".weight_scale");
                scale.shape = {64, 8};
                scale.bytes.resize(64 * 8);
              }),
              HasSubstr(kModule + ".weight_scale"));
}

TEST(E8m0, ExpertsInMxfp8AreRefused) {
  EditableCheckpoint edited(kFolder);
  const std::string expert = "language_model.model.layers.1.block_sparse_moe.experts.0.w1";
  edited.tensors.erase(expert + ".weight_scale_2");
  edited.tensors.erase(expert + ".input_scale");
  edited.tensors[expert + ".weight"] = {
      DType::kF8E4M3, {32, 64}, std::vector<std::byte>(32 * 64, std::byte{0x38})};
  edited.tensors[expert + ".weight_scale"] = {
      DType::kU8, {32, 2}, std::vector<std::byte>(64, std::byte{127})};
  TempDir dir;
  try {
    (void)open(edited, dir)->moe_layer(1);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("MXFP8 weights are not supported"));
  }
}

// DeepSeek-V4's: blocks of 128 x 128.
TEST(E8m0, BlocksAreThoseWithTheSameFloat32Scales) {
  constexpr int64_t kRows = 160, kColumns = 272;
  EditableTensor codes{DType::kF8E4M3, {kRows, kColumns}, {}};
  for (int64_t i = 0; i < kRows * kColumns; ++i) {
    codes.bytes.push_back(static_cast<std::byte>((i * 37 + i / 16) % 120));
  }
  const std::vector<std::byte> bytes = {std::byte{120}, std::byte{127}, std::byte{130},
                                        std::byte{0},   std::byte{126}, std::byte{129}};
  std::vector<float> values;
  for (const std::byte byte : bytes) {
    values.push_back(static_cast<float>(std::ldexp(1.0, static_cast<int>(byte) - 127)));
  }
  std::vector<std::vector<float>> decoded;
  for (const bool powers : {false, true}) {
    EditableCheckpoint edited(kFolder);
    edited.tensors.erase(kModule + ".weight_scale");
    edited.tensors[kModule + ".weight"] = codes;
    if (powers) {
      edited.tensors[kModule + ".scale"] = {DType::kF8E8M0, {2, 3}, bytes};
    } else {
      edited.add(kModule + ".weight_scale_inv", {2, 3}, values);
    }
    TempDir dir;
    const auto checkpoint = open(edited, dir);
    const LinearWeights linear = checkpoint->linear(kModule, kRows, kColumns);
    EXPECT_EQ(linear.scheme.weight.format, QuantFormat::kFp8Block128);
    std::vector<float> all(kRows * kColumns);
    for (int64_t r = 0; r < kRows; ++r) dequantize_row(linear, r, all.data() + r * kColumns);
    decoded.push_back(std::move(all));
  }
  EXPECT_EQ(decoded[0], decoded[1]);
  EXPECT_EQ(decoded[1][1], e4m3_to_float(37) * 0x1p-7f);
}

}  // namespace
}  // namespace moe4
