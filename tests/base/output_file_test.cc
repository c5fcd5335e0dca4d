// Where output goes, what it never replaces, and what is left when it is not finished.
#include "base/output_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "base/error.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class OutputFileTest : public ::testing::Test {
 protected:
  fs::path path(const std::string& name) const { return folder_ / name; }
  void put(const std::string& name, const std::string& text) { std::ofstream(path(name)) << text; }
  static std::string get(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void write(const fs::path& file, const std::string& text) {
    OutputFile out(file);
    // Back to front: the order is the writer's own.
    for (auto i = static_cast<int64_t>(text.size()) - 1; i >= 0; --i)
      out.write_at(i, text.data() + i, 1);
    out.finish();
  }
  size_t files() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()));
  }
  void expect_refused(const fs::path& file, ErrorCode code, const std::string& words) {
    for (const bool only_check : {true, false}) {
      try {
        if (only_check) {
          check_output_path(file);
        } else {
          OutputFile out(file);
        }
        ADD_FAILURE() << file << " was not refused";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), code) << error.what();
        EXPECT_THAT(error.what(), HasSubstr(words));
        EXPECT_THAT(error.what(), HasSubstr("cannot write " + file.string()));
      }
    }
  }

  testing::TempDir folder_;
};

TEST_F(OutputFileTest, AppearsUnderItsNameOnlyWhenFinished) {
  OutputFile out(path("a"));
  out.write_at(0, "text", 4);
  EXPECT_FALSE(fs::exists(path("a")));
  out.finish();
  EXPECT_EQ(get(path("a")), "text");
  EXPECT_EQ(files(), 1u);
}

TEST_F(OutputFileTest, LeavesNothingWhenNotFinished) {
  put("a", "old");
  {
    OutputFile out(path("a"));
    out.write_at(0, "new", 3);
  }
  EXPECT_EQ(get(path("a")), "old");
  EXPECT_EQ(files(), 1u);
}

TEST_F(OutputFileTest, AReplacedFileKeepsItsMode) {
  put("a", "old");
  ASSERT_EQ(chmod(path("a").c_str(), 0640), 0);
  write(path("a"), "new");
  EXPECT_EQ(get(path("a")), "new");
  struct stat status;
  ASSERT_EQ(stat(path("a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0640u);
}

TEST_F(OutputFileTest, SymbolicLinksAreFollowedAndKept) {
  fs::create_directory(path("sub"));
  put("sub/real", "old");
  fs::create_symlink("sub/real", path("one"));
  fs::create_symlink(path("one"), path("two"));
  fs::create_symlink("sub/made", path("dangling"));
  write(path("two"), "new");
  write(path("dangling"), "made");
  EXPECT_TRUE(fs::is_symlink(path("one")));
  EXPECT_TRUE(fs::is_symlink(path("two")));
  EXPECT_TRUE(fs::is_symlink(path("dangling")));
  EXPECT_EQ(get(path("sub/real")), "new");
  EXPECT_EQ(get(path("sub/made")), "made");
}

TEST_F(OutputFileTest, ALoopOfLinksIsRefused) {
  fs::create_symlink("b", path("a"));
  fs::create_symlink("a", path("b"));
  expect_refused(path("a"), ErrorCode::kUnavailable, "symbolic links");
}

TEST_F(OutputFileTest, FoldersSocketsAndMissingFoldersAreRefused) {
  fs::create_directory(path("folder"));
  expect_refused(path("folder"), ErrorCode::kUsage, "it is a folder");
  expect_refused(path("new/"), ErrorCode::kUsage, "it names a folder");
  expect_refused(path("no/such/file"), ErrorCode::kUnavailable, "there is no folder");
  put("file", "");
  expect_refused(path("file/below"), ErrorCode::kUnavailable, "Not a directory");
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = path("s").string();
  ASSERT_LT(name.size(), sizeof address.sun_path);
  name.copy(address.sun_path, name.size());
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  expect_refused(path("s"), ErrorCode::kUsage, "it is a socket");
  close(fd);
}

TEST_F(OutputFileTest, WhatMayNotBeWrittenIsRefused) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write everything";
  put("read-only", "old");
  ASSERT_EQ(chmod(path("read-only").c_str(), 0444), 0);
  expect_refused(path("read-only"), ErrorCode::kUnavailable, "denied");
  fs::create_directory(path("closed"));
  ASSERT_EQ(chmod(path("closed").c_str(), 0555), 0);
  expect_refused(path("closed") / "file", ErrorCode::kUnavailable, "may not be written to");
}

TEST_F(OutputFileTest, ADeviceIsWrittenToAndStaysADevice) {
  fs::create_symlink("/dev/null", path("null"));
  write("/dev/null", "gone");
  write(path("null"), "gone");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_TRUE(fs::is_symlink(path("null")));
  try {
    write("/dev/full", "text");
    ADD_FAILURE() << "/dev/full took it";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_THAT(error.what(), HasSubstr("No space left on device"));
  }
  EXPECT_TRUE(fs::is_character_file("/dev/full"));
}

TEST_F(OutputFileTest, APipeGetsEverythingInOrder) {
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  std::string text(200'000, 'x');  // more than a pipe holds
  text.back() = 'y';
  std::string received;
  std::thread reader([&] { received = get(path("pipe")); });
  {
    OutputFile out(path("pipe"));
    out.write_at(1, text.data() + 1, static_cast<int64_t>(text.size()) - 1);
    out.write_at(0, text.data(), 1);
    out.finish();
  }
  reader.join();
  EXPECT_EQ(received, text);
  EXPECT_TRUE(fs::is_fifo(path("pipe")));
}

TEST_F(OutputFileTest, AnOpenDescriptorIsWrittenToAsItIs) {
  const int fd = open(path("log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  ASSERT_EQ(::write(fd, "before ", 7), 7);
  write("/dev/fd/" + std::to_string(fd), "after");
  write("/proc/self/fd/" + std::to_string(fd), "!");
  close(fd);
  EXPECT_EQ(get(path("log")), "before after!");
  EXPECT_EQ(files(), 1u);
}

TEST_F(OutputFileTest, PartialFilesOfKilledRunsAreRemovedAndOthersKept) {
  put("a.1.partial", "stale");
  put("a.4194305.partial", "stale");
  put("a.x1.partial", "another's");
  put("ab.1.partial", "of another name");
  put("a.2.partial", "in use");
  const int used = open(path("a.2.partial").c_str(), O_RDWR);
  ASSERT_EQ(flock(used, LOCK_EX), 0);
  write(path("a"), "text");
  close(used);
  EXPECT_FALSE(fs::exists(path("a.1.partial")));
  EXPECT_FALSE(fs::exists(path("a.4194305.partial")));
  EXPECT_TRUE(fs::exists(path("a.x1.partial")));
  EXPECT_TRUE(fs::exists(path("ab.1.partial")));
  EXPECT_TRUE(fs::exists(path("a.2.partial")));
}

TEST_F(OutputFileTest, WhatASignalHandlerRemovesIsTheUnfinished) {
  const pid_t child = fork();
  if (child == 0) {
    OutputFile finished(path("finished")), unfinished(path("unfinished"));
    finished.finish();
    remove_unfinished_paths();
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  EXPECT_TRUE(fs::exists(path("finished")));
  EXPECT_EQ(files(), 1u);
}

TEST_F(OutputFileTest, AFullDiskIsSaidAndLeavesNothing) {
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 1000, .rlim_max = 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write(path("a"), std::string(5000, 'x'));
    } catch (const Error& error) {
      _exit(error.code() == ErrorCode::kUnavailable ? 0 : 1);
    }
    _exit(2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(files(), 0u);
}

}  // namespace
}  // namespace moe4
