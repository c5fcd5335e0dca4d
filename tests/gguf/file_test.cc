// Files and sets of files on disk.
#include "gguf/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "gguf/gguf_writer.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::TempDir;

std::string error_of(const fs::path& path, bool headers_only = false) {
  try {
    (void)GgufModel::open(path, headers_only);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    return error.what();
  }
  return "";
}

GgufWriter part(uint32_t number, uint32_t count, const std::string& tensor) {
  GgufWriter file;
  file.u32("split.no", number).u32("split.count", count).u32("split.tensors.count", 2);
  file.floats(tensor, {4}, {1, 2, 3, 4});
  return file;
}

TEST(GgufFile, OfASetAnyPartOpensAll) {
  TempDir dir;
  part(0, 2, "a").write(dir / "m-00001-of-00002.gguf");
  part(1, 2, "b").write(dir / "m-00002-of-00002.gguf");
  for (const char* name : {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}) {
    const GgufModel model = GgufModel::open(dir / name);
    ASSERT_EQ(model.files().size(), 2u);
    EXPECT_EQ(model.metadata().integer("split.no"), 0);
    const GgufTensor* b = model.find("b");
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(model.file_of(*b).path().filename(), "m-00002-of-00002.gguf");
    EXPECT_EQ(reinterpret_cast<const float*>(model.file_of(*b).data(*b))[3], 4.0f);
    EXPECT_EQ(first_gguf_file(dir / name), dir / "m-00001-of-00002.gguf");
  }
}

TEST(GgufFile, MixedOrIncompleteSetsAreRefused) {
  TempDir dir;
  part(0, 2, "a").write(dir / "m-00001-of-00002.gguf");
  EXPECT_THAT(error_of(dir / "m-00001-of-00002.gguf"),
              AllOf(HasSubstr("part of a GGUF model is missing"), HasSubstr("m-00002-of-00002")));
  part(0, 2, "b").write(dir / "m-00002-of-00002.gguf");
  EXPECT_THAT(error_of(dir / "m-00001-of-00002.gguf"),
              AllOf(HasSubstr("another part than its name says"), HasSubstr("key split.no")));
  part(1, 3, "b").write(dir / "m-00002-of-00002.gguf");
  EXPECT_THAT(error_of(dir / "m-00001-of-00002.gguf"), HasSubstr("of another set"));
  part(1, 2, "a").write(dir / "m-00002-of-00002.gguf");
  EXPECT_THAT(error_of(dir / "m-00001-of-00002.gguf"),
              AllOf(HasSubstr("lies in two parts"), HasSubstr("tensor a")));
  part(0, 2, "a").write(dir / "alone.gguf");
  EXPECT_THAT(error_of(dir / "alone.gguf"), HasSubstr("of another set"));
}

TEST(GgufFile, EndsWithItsDataOrIsRefused) {
  TempDir dir;
  GgufWriter file;
  file.floats("a", {4}, {1, 2, 3, 4}).floats("b", {4}, {5, 6, 7, 8});
  const std::string bytes = file.bytes();
  const fs::path path = dir / "m.gguf";
  for (size_t cut = 1; cut < 90; ++cut) {
    std::ofstream(path, std::ios::binary) << bytes.substr(0, bytes.size() - cut);
    if (cut <= 48) {
      EXPECT_THAT(error_of(path), HasSubstr("shorter than its header says")) << cut;
      EXPECT_EQ(error_of(path, /*headers_only=*/true), "") << cut;
    } else {
      EXPECT_NE(error_of(path), "") << cut;
    }
  }
}

TEST(GgufFile, OtherFilesAreNone) {
  TempDir dir;
  std::ofstream(dir / "pointer.gguf")
      << "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n";
  EXPECT_THAT(error_of(dir / "pointer.gguf"), HasSubstr("git lfs pull"));
  EXPECT_FALSE(is_gguf_file(dir / "pointer.gguf"));
  EXPECT_FALSE(is_gguf_file(dir.path()));
  EXPECT_FALSE(is_gguf_file(dir / "none.gguf"));
  EXPECT_THAT(error_of(dir / "none.gguf"), HasSubstr("cannot open file"));
  std::ofstream(dir / "empty.gguf") << "";
  EXPECT_NE(error_of(dir / "empty.gguf"), "");
}

}  // namespace
}  // namespace moe4
