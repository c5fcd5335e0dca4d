// A mapped file knows when it is no longer what was opened.
#include "base/mapped_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>

#include "base/error.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class MappedFileTest : public ::testing::Test {
 protected:
  MappedFileTest() { std::ofstream(path_) << std::string(10'000, 'x'); }
  std::unique_ptr<MappedFile> map() const {
    const int fd = open(path_.c_str(), O_RDONLY);
    struct stat status;
    EXPECT_EQ(fstat(fd, &status), 0);
    return std::make_unique<MappedFile>(fd, status, path_);
  }
  static std::string change_of(const MappedFile& file) {
    try {
      file.check_unchanged();
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      return error.what();
    }
  }

  testing::TempDir folder_;
  std::filesystem::path path_ = folder_ / "weights";
};

TEST_F(MappedFileTest, IsFoundByItsAddressesOnly) {
  auto file = map();
  const std::byte* data = file->data();
  EXPECT_EQ(file->size(), 10'000);
  EXPECT_EQ(static_cast<char>(data[9'999]), 'x');
  EXPECT_STREQ(mapped_file_at(data), path_.c_str());
  EXPECT_STREQ(mapped_file_at(data + 9'999), path_.c_str());
  EXPECT_EQ(mapped_file_at(data + 10'000), nullptr);
  EXPECT_EQ(mapped_file_at(data - 1), nullptr);
  file.reset();
  EXPECT_EQ(mapped_file_at(data), nullptr);
}

TEST_F(MappedFileTest, UnchangedAfterBeingReplacedByName) {
  const auto file = map();
  std::ofstream(folder_ / "new") << "other";
  std::filesystem::rename(folder_ / "new", path_);
  EXPECT_EQ(change_of(*file), "");
}

TEST_F(MappedFileTest, CutGrownAndRewrittenFilesAreChanged) {
  const auto file = map();
  EXPECT_EQ(change_of(*file), "");
  ASSERT_EQ(truncate(path_.c_str(), 9'999), 0);
  EXPECT_THAT(change_of(*file), AllOf(HasSubstr("file changed while it was read"),
                                      HasSubstr(path_.string()), HasSubstr("found 9999 bytes")));
  ASSERT_EQ(truncate(path_.c_str(), 20'000), 0);
  EXPECT_THAT(change_of(*file), HasSubstr("found 20000 bytes"));
  ASSERT_EQ(truncate(path_.c_str(), 10'000), 0);
  const timespec times[2] = {{.tv_sec = 1, .tv_nsec = 0}, {.tv_sec = 1, .tv_nsec = 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, path_.c_str(), times, 0), 0);
  EXPECT_THAT(change_of(*file), HasSubstr("other contents of that size"));
}

}  // namespace
}  // namespace moe4
