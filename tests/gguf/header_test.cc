// Headers that lie: each is refused with one sentence that names the key or tensor.
#include "gguf/header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "gguf/gguf_writer.h"
#include "gguf/metadata.h"

namespace moe4 {
namespace {

using ::testing::AllOf;
using testing::GgufBytes;
using testing::GgufWriter;
using ::testing::HasSubstr;

constexpr uint64_t kHuge = uint64_t{1} << 62;

std::string error_of(const std::string& bytes) {
  try {
    (void)parse_gguf_header(bytes, "x.gguf");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.what(), HasSubstr("x.gguf"));
    return error.what();
  }
  return "";
}

GgufWriter small() {
  GgufWriter file;
  file.text("general.architecture", "qwen3moe")
      .u32("a.b", 7)
      .floats("t", {4, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
  return file;
}

TEST(GgufHeader, OfASmallFileIsReadWhole) {
  const std::string bytes = small().bytes();
  const GgufHeader header = parse_gguf_header(bytes, "x.gguf");
  const GgufMetadata metadata(header, "x.gguf");
  EXPECT_EQ(metadata.string("general.architecture"), "qwen3moe");
  EXPECT_EQ(metadata.integer("a.b"), 7);
  EXPECT_EQ(metadata.integer("a.c"), std::nullopt);
  ASSERT_EQ(header.tensors.size(), 1u);
  EXPECT_EQ(header.tensors[0].shape, (std::vector<int64_t>{2, 4}));
  EXPECT_EQ(header.tensors[0].bytes, 32);
  EXPECT_EQ(header.data_begin + header.data_bytes, static_cast<int64_t>(bytes.size()));
}

TEST(GgufHeader, CutAnywhereIsRefused) {
  const std::string bytes = small().bytes();
  const auto header_bytes = static_cast<size_t>(parse_gguf_header(bytes, "x.gguf").data_begin) - 32;
  for (size_t size = 0; size < header_bytes; ++size) {
    EXPECT_NE(error_of(bytes.substr(0, size)), "") << size;
  }
}

TEST(GgufHeader, OtherVersionsAndByteOrdersAreNamed) {
  GgufWriter file = small();
  file.version = 1;
  EXPECT_THAT(error_of(file.bytes()), HasSubstr("unsupported version of GGUF"));
  file.version = 0x03000000;
  EXPECT_THAT(error_of(file.bytes()), HasSubstr("big-endian"));
  file.version = 2;
  EXPECT_EQ(error_of(file.bytes()), "");
  EXPECT_THAT(error_of("GGML"), HasSubstr("not a GGUF file"));
}

TEST(GgufHeader, CountsAndLengthsBeyondTheFileAreRefusedBeforeMemoryIsTaken) {
  GgufWriter file = small();
  file.more_tensors = kHuge;
  EXPECT_THAT(error_of(file.bytes()), HasSubstr("too many tensors or keys"));
  file = small();
  file.more_keys = 5;
  EXPECT_NE(error_of(file.bytes()), "");
  const auto with_array = [](uint32_t type, uint64_t count) {
    return GgufWriter().key("k", 9, GgufBytes().raw(type).raw(count).bytes()).bytes();
  };
  for (const uint32_t type : {0u, 4u, 7u, 8u, 12u}) {
    EXPECT_THAT(error_of(with_array(type, kHuge)),
                AllOf(HasSubstr("longer than its file"), HasSubstr("key k")));
    EXPECT_THAT(error_of(with_array(type, ~uint64_t{0})), HasSubstr("longer than its file"));
  }
  EXPECT_THAT(error_of(with_array(9, 1)), HasSubstr("array of arrays"));
  EXPECT_THAT(error_of(with_array(13, 1)), HasSubstr("unknown type"));
  const std::string text = GgufWriter().key("k", 8, GgufBytes().raw(kHuge).bytes()).bytes();
  EXPECT_THAT(error_of(text), HasSubstr("ends inside its header"));
}

TEST(GgufHeader, NamesAreUniqueAndPlain) {
  EXPECT_THAT(error_of(GgufWriter().u32("k", 1).u32("k", 1).bytes()),
              AllOf(HasSubstr("key appears twice"), HasSubstr("key k")));
  EXPECT_THAT(error_of(GgufWriter().floats("t", {1}, {1}).floats("t", {1}, {1}).bytes()),
              AllOf(HasSubstr("tensor appears twice"), HasSubstr("tensor t")));
  EXPECT_THAT(error_of(GgufWriter().u32("", 1).bytes()), HasSubstr("unusable name"));
  EXPECT_THAT(error_of(GgufWriter().u32(std::string("a\0b", 3), 1).bytes()),
              HasSubstr("unusable name"));
  EXPECT_THAT(error_of(GgufWriter().u32(std::string(2000, 'x'), 1).bytes()),
              HasSubstr("unusable name"));
  EXPECT_THAT(error_of(GgufWriter().u32("a\xff", 1).bytes()), HasSubstr("unusable name of a key"));
  EXPECT_THAT(error_of(GgufWriter().floats("a\x1b[0m", {1}, {1}).bytes()),
              HasSubstr("unusable name of a tensor"));
}

TEST(GgufHeader, ShapesThatOverflowOrCutBlocksAreRefused) {
  const auto with = [](const std::vector<uint64_t>& dims, uint32_t type) {
    return error_of(GgufWriter().tensor("t", dims, type, "").bytes());
  };
  EXPECT_THAT(with({kHuge, 4}, 0), HasSubstr("more than 2^63 bytes"));
  EXPECT_THAT(with({kHuge}, 0), HasSubstr("more than 2^63 bytes"));
  EXPECT_THAT(with({~uint64_t{0}}, 0), HasSubstr("unusable dimension"));
  EXPECT_THAT(with({0, 4}, 0), HasSubstr("unusable dimension"));
  EXPECT_THAT(with({1, 1, 1, 1, 1}, 0), HasSubstr("too many dimensions"));
  EXPECT_THAT(with({96, 2}, 40), AllOf(HasSubstr("not whole blocks"), HasSubstr("tensor t")));
  EXPECT_THAT(with({128}, 12), HasSubstr("not whole blocks"));
}

TEST(GgufHeader, TensorsNeitherOverlapNorLeaveGaps) {
  const std::string four(16, 'x');
  EXPECT_THAT(
      error_of(GgufWriter().tensor("a", {4}, 0, four).tensor_at("b", {4}, 0, 0, four).bytes()),
      HasSubstr("overlaps"));
  EXPECT_THAT(
      error_of(GgufWriter().tensor("a", {4}, 0, four).tensor_at("b", {4}, 0, 64, four).bytes()),
      HasSubstr("not where the one before it ends"));
  EXPECT_THAT(
      error_of(GgufWriter().tensor("a", {4}, 0, four).tensor_at("b", {4}, 0, 33, four).bytes()),
      HasSubstr("not where the one before it ends"));
  EXPECT_THAT(error_of(GgufWriter().tensor_at("a", {4}, 0, ~uint64_t{0}, four).bytes()),
              HasSubstr("beyond any file"));
  EXPECT_NE(error_of(GgufWriter().tensor_at("a", {4}, 0, INT64_MAX - 31, four).bytes()), "");
}

TEST(GgufHeader, AlignmentIsAPowerOfTwo) {
  for (const uint32_t bad : {0u, 3u, 48u, 1u << 31}) {
    EXPECT_THAT(error_of(GgufWriter().u32("general.alignment", bad).bytes()),
                AllOf(HasSubstr("unusable alignment"), HasSubstr("general.alignment")));
  }
  EXPECT_THAT(error_of(GgufWriter().text("general.alignment", "32").bytes()),
              HasSubstr("unusable alignment"));
  GgufWriter file;
  file.alignment = 64;
  file.u32("general.alignment", 64).floats("a", {1}, {1}).floats("b", {1}, {2});
  EXPECT_EQ(error_of(file.bytes()), "");
}

TEST(GgufMetadata, OtherKindsOfValuesAreNamed) {
  GgufWriter file;
  file.text("s", "x").u32("n", 3).f32("f", 0.1f).i32s("a", {1, 2}).texts("t", {"x", "y"});
  file.key("big", 10, GgufBytes().raw(~uint64_t{0}).bytes());
  file.text("latin", "\xe9");
  const std::string bytes = file.bytes();
  const GgufHeader header = parse_gguf_header(bytes, "x.gguf");
  const GgufMetadata metadata(header, "x.gguf");
  const auto message = [](const auto& read) -> std::string {
    try {
      (void)read();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message([&] { return metadata.integer("s"); }),
              AllOf(HasSubstr("wrong type"), HasSubstr("key s"), HasSubstr("x.gguf")));
  EXPECT_THAT(message([&] { return metadata.integer("a"); }), HasSubstr("an array of 2 i32"));
  EXPECT_THAT(message([&] { return metadata.integer("f"); }), HasSubstr("f32"));
  EXPECT_THAT(message([&] { return metadata.string("n"); }), HasSubstr("a string"));
  EXPECT_THAT(message([&] { return metadata.string("latin"); }), HasSubstr("not UTF-8"));
  EXPECT_THAT(message([&] { return metadata.strings("a"); }), HasSubstr("an array of strings"));
  EXPECT_THAT(message([&] { return metadata.integer("big"); }), HasSubstr("too large"));
  EXPECT_THAT(message([&] { return metadata.required_integer("none"); }), HasSubstr("lacks a key"));
  EXPECT_EQ(metadata.integers("a"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(metadata.integers("n"), (std::vector<int64_t>{3}));
  EXPECT_EQ(metadata.number("f"), 0.1);  // as it was written, not as float32 rounds it
}

}  // namespace
}  // namespace moe4
