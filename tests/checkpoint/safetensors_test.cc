// The safetensors reader accepts what the reference implementation accepts, and the writer's files
// are among it.
#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <functional>

#include "base/error.h"
#include "checkpoint/safetensors_writer.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using ::testing::HasSubstr;

// A file of `header` (its length field true) and `data_bytes` zeros.
std::filesystem::path write_raw(const testing::TempDir& dir, const std::string& header,
                                size_t data_bytes) {
  const auto path = dir / "x.safetensors";
  std::ofstream out(path, std::ios::binary);
  const uint64_t length = header.size();
  out.write(reinterpret_cast<const char*>(&length), 8);
  out << header << std::string(data_bytes, '\0');
  return path;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.what();
    return error.what();
  }
  return "no error";
}

std::string header_error(const std::string& json) {
  return message_of([&] { parse_safetensors_header(json, "F"); });
}

TEST(Safetensors, ScalarsAndEmptyTensorsAreTensors) {
  testing::TempDir dir;
  const auto path = write_raw(dir,
                              R"({"zero_d":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                              R"("one":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},)"
                              R"("none":{"dtype":"BF16","shape":[0,7],"data_offsets":[8,8]},)"
                              R"("__metadata__":{"format":"pt"}}   )",
                              8);
  const auto file = SafetensorsFile::open(path);
  EXPECT_EQ(file->tensor("zero_d").shape, std::vector<int64_t>{});
  EXPECT_EQ(file->tensor("one").shape, std::vector<int64_t>{1});
  EXPECT_EQ(file->tensor("none").num_elements(), 0);
  EXPECT_EQ(file->metadata().at("format"), "pt");
}

TEST(Safetensors, UnknownTypeFailsOnlyWhenUsed) {
  testing::TempDir dir;
  const auto path = write_raw(dir, R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2);
  const auto file = SafetensorsFile::open(path);
  EXPECT_FALSE(file->find("a")->dtype);
  EXPECT_THAT(message_of([&] { file->tensor("a"); }), HasSubstr("tensor a"));
}

TEST(Safetensors, HeaderFaultsNameTheTensor) {
  const std::string good = R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})";
  const auto with = [&](const std::string& a) { return "{\"a\":" + a + "," + good; };
  const struct {
    const char* tensor;
    const char* says;
  } faults[] = {
      {R"({"dtype":"U8","shape":[5],"data_offsets":[0,4]})", "5 bytes"},
      {R"({"dtype":"F32","shape":[4],"data_offsets":[0,4]})", "16 bytes"},
      {R"({"dtype":"U8","shape":[-4],"data_offsets":[0,4]})", "negative"},
      {R"({"dtype":"U8","shape":[4.0],"data_offsets":[0,4]})", "whole number"},
      {R"({"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,4]})", "whole number"},
      {R"({"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,4]})", "above 2^63"},
      {R"({"dtype":"U8","shape":[18446744073709551615,0],"data_offsets":[0,0]})", "above 2^63"},
      {R"({"dtype":"U8","shape":[4],"data_offsets":[18446744073709551612,4]})", "above 2^63"},
      {R"({"dtype":"U8","shape":[4],"data_offsets":[0,9223372036854775808]})", "above 2^63"},
      {R"({"dtype":"U8","shape":[4294967296,4294967296,4],"data_offsets":[0,4]})", "2^63"},
      {R"({"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]})", "2^63"},
      {R"({"dtype":"U8","shape":[4],"data_offsets":[4,0]})", "backwards"},
      {R"({"dtype":"U8","shape":[4],"data_offsets":[0]})", "two numbers"},
      {R"({"dtype":"U8","shape":[4],"data_offsets":[0,4,8]})", "two numbers"},
      {R"({"dtype":"U8","shape":[[4]],"data_offsets":[0,4]})", "array"},
      {R"({"dtype":"U8","shape":"4","data_offsets":[0,4]})", "string"},
      {R"({"dtype":8,"shape":[4],"data_offsets":[0,4]})", "number"},
      {R"({"dtype":"U8","shape":[4]})", "missing"},
      {R"({"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1})", "unknown key"},
      {R"({"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]})", "duplicate"},
      {R"(null)", "null"},
      {R"("U8")", "string"},
      {R"([4])", "array"},
  };
  for (const auto& [tensor, says] : faults) {
    const std::string message = header_error(with(tensor));
    EXPECT_THAT(message, HasSubstr(says)) << tensor;
    EXPECT_THAT(message, HasSubstr("tensor a")) << tensor;
    EXPECT_THAT(message, HasSubstr("file F")) << tensor;
  }
}

TEST(Safetensors, TensorsMustTileTheData) {
  const std::string a = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)";
  EXPECT_THAT(header_error(a + R"("b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})"),
              HasSubstr("overlaps"));
  EXPECT_THAT(header_error(a + R"("b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}})"),
              HasSubstr("gap"));
  EXPECT_THAT(header_error(a + R"("a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})"),
              HasSubstr("twice"));
}

TEST(Safetensors, HeadersOnlyToleratesMissingDataButNotTooMuch) {
  testing::TempDir dir;
  const std::string header = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})";
  auto path = write_raw(dir, header, 1);
  EXPECT_THAT(message_of([&] { SafetensorsFile::open(path); }), HasSubstr("truncated"));
  EXPECT_EQ(SafetensorsFile::open(path, true)->tensor("a").shape, std::vector<int64_t>{4});
  path = write_raw(dir, header, 5);
  EXPECT_THAT(message_of([&] { SafetensorsFile::open(path, true); }), HasSubstr("after"));
}

TEST(Safetensors, WhatIsWrittenReadsBack) {
  testing::TempDir dir;
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const uint8_t byte = 7;
  const std::vector<NamedTensor> tensors = {
      {"byte", {.data = &byte, .dtype = DType::kU8, .shape = {}}},
      {"values \"quoted\"\n", {.data = values.data(), .dtype = DType::kF32, .shape = {2, 3}}},
      {"empty", {.data = nullptr, .dtype = DType::kF32, .shape = {0}}}};
  write_safetensors(dir / "out.safetensors", tensors, {{"by", "test"}});
  const auto file = SafetensorsFile::open(dir / "out.safetensors");
  const TensorView view = file->tensor("values \"quoted\"\n");
  EXPECT_EQ(view.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(0, std::memcmp(view.data, values.data(), 24));
  EXPECT_EQ(*file->tensor("byte").as<uint8_t>(), 7);
  EXPECT_EQ(file->metadata().at("by"), "test");
}

TEST(Safetensors, UnfinishedWriterLeavesNothingBehind) {
  testing::TempDir dir;
  {
    SafetensorsWriter writer(dir / "out.safetensors", {{"x", DType::kU8, {4}}});
    writer.write("x", "abc", 3);
    EXPECT_THROW(writer.finish(), Error);
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(Safetensors, WritingPiecesKeepsTheOldFileUntilTheEnd) {
  testing::TempDir dir;
  const auto path = write_raw(dir, "{}", 0);
  SafetensorsWriter writer(path, {{"x", DType::kU8, {4}}});
  writer.write("x", "ab", 2);
  EXPECT_TRUE(SafetensorsFile::open(path)->tensors().empty());
  writer.write("x", "cd", 2);
  writer.finish();
  EXPECT_EQ(0, std::memcmp(SafetensorsFile::open(path)->tensor("x").data, "abcd", 4));
}

}  // namespace
}  // namespace moe4
