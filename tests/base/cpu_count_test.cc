// CPU quotas as cgroup v1 and v2 write them, in a made-up /proc and /sys.
#include "base/cpu_count.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "support/temp_dir.h"

namespace moe4 {
namespace {

class CpuQuota : public ::testing::Test {
 protected:
  void write(const std::string& file, const std::string& text) {
    const std::filesystem::path path = root_.path() / file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  std::optional<double> quota() const { return cgroup_cpu_quota(root_.path()); }

  testing::TempDir root_;
};

TEST_F(CpuQuota, NoneWithoutCgroups) { EXPECT_EQ(quota(), std::nullopt); }

TEST_F(CpuQuota, Version2IsQuotaOverPeriod) {
  write("proc/self/cgroup", "0::/app\n");
  write("sys/fs/cgroup/app/cpu.max", "150000 100000\n");
  EXPECT_EQ(quota(), 1.5);
}

TEST_F(CpuQuota, Version2MaxIsNoQuota) {
  write("proc/self/cgroup", "0::/app\n");
  write("sys/fs/cgroup/app/cpu.max", "max 100000\n");
  EXPECT_EQ(quota(), std::nullopt);
}

TEST_F(CpuQuota, TheTightestOfTheGroupsAboveCounts) {
  write("proc/self/cgroup", "0::/slice/pod/app\n");
  write("sys/fs/cgroup/slice/cpu.max", "400000 100000\n");
  write("sys/fs/cgroup/slice/pod/cpu.max", "200000 100000\n");
  write("sys/fs/cgroup/slice/pod/app/cpu.max", "max 100000\n");
  EXPECT_EQ(quota(), 2.0);
}

TEST_F(CpuQuota, AContainerSeesItsGroupAsTheMountsRoot) {
  write("proc/self/cgroup", "0::/../../docker/0123\n");
  write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(quota(), 0.5);
}

TEST_F(CpuQuota, Version1IsFoundUnderItsControllersName) {
  write("proc/self/cgroup", "4:memory:/app\n3:cpu,cpuacct:/app\n0::/\n");
  write("sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us", "300000\n");
  write("sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 3.0);
}

TEST_F(CpuQuota, Version1MinusOneIsNoQuota) {
  write("proc/self/cgroup", "3:cpu:/\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), std::nullopt);
}

TEST_F(CpuQuota, OtherControllersOfVersion1AreNotLookedAt) {
  write("proc/self/cgroup", "3:cpuset:/\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), std::nullopt);
}

TEST_F(CpuQuota, DamagedFilesAreNoQuota) {
  for (const char* text : {"", "banana", "100000", "100000 0", "-5 100000", "0 100000"}) {
    write("proc/self/cgroup", "nonsense\n::\n0::/\n");
    write("sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(quota(), std::nullopt) << text;
  }
}

TEST(UsableCpus, IsWithinTheAffinityMask) {
  EXPECT_GE(usable_cpus(), 1);
  EXPECT_LE(usable_cpus(), affinity_cpus());
}

}  // namespace
}  // namespace moe4
