// Available memory as /proc and cgroup v1 and v2 tell it, in a made-up /proc and /sys.
#include "base/memory_limit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "support/temp_dir.h"

namespace moe4 {
namespace {

class AvailableMemoryTest : public ::testing::Test {
 protected:
  AvailableMemoryTest() {
    write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    5000 kB\nSwapFree: 1000 kB\n");
  }
  void write(const std::string& file, const std::string& text) {
    const std::filesystem::path path = root_.path() / file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  AvailableMemory available() const { return available_memory(root_.path()); }

  testing::TempDir root_;
};

TEST_F(AvailableMemoryTest, OfTheMachineIsMemoryAndSwap) {
  EXPECT_EQ(available().bytes, 6000 << 10);
  EXPECT_EQ(available().limited_by, "the machine");
}

TEST_F(AvailableMemoryTest, AControlGroupLimitsIt) {
  write("proc/self/cgroup", "0::/pod/app\n");
  write("sys/fs/cgroup/pod/memory.max", "4000000\n");
  write("sys/fs/cgroup/pod/memory.current", "3000000\n");
  write("sys/fs/cgroup/pod/memory.stat", "anon 1\ninactive_file 500000\n");
  write("sys/fs/cgroup/pod/app/memory.max", "max\n");
  write("sys/fs/cgroup/pod/app/memory.current", "3000000\n");
  EXPECT_EQ(available().bytes, 1'500'000);
  EXPECT_EQ(available().limited_by, "the control group");
}

TEST_F(AvailableMemoryTest, Version1AsWell) {
  write("proc/self/cgroup", "4:memory:/app\n2:cpu:/app\n");
  write("sys/fs/cgroup/memory/app/memory.limit_in_bytes", "2000000\n");
  write("sys/fs/cgroup/memory/app/memory.usage_in_bytes", "3000000\n");
  EXPECT_EQ(available().bytes, 0);  // never below
}

TEST_F(AvailableMemoryTest, AnErrorSaysWhatWasAskedForAndWhatThereIs) {
  const OutOfMemory error(int64_t{3} << 30);
  EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
  EXPECT_EQ(error.bytes(), int64_t{3} << 30);
  EXPECT_THAT(error.what(), ::testing::HasSubstr("cannot allocate 3.0 GiB"));
  EXPECT_THAT(error.what(), ::testing::HasSubstr("are available"));
}

TEST(MemoryText, PicksItsUnit) {
  EXPECT_EQ(memory_text(1), "1 MiB");
  EXPECT_EQ(memory_text(300 << 20), "300 MiB");
  EXPECT_EQ(memory_text(int64_t{5} << 29), "2.5 GiB");
}

}  // namespace
}  // namespace moe4
