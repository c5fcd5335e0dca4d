// Caches as Linux describes them, in a made-up /sys.
#include "base/cache_size.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "support/temp_dir.h"

namespace moe4 {
namespace {

class CacheSize : public ::testing::Test {
 protected:
  void cache(int cpu, int index, const std::string& size, const std::string& shared_by) {
    const std::filesystem::path folder = root_.path() / "sys/devices/system/cpu" /
                                         ("cpu" + std::to_string(cpu)) / "cache" /
                                         ("index" + std::to_string(index));
    std::filesystem::create_directories(folder);
    std::ofstream(folder / "size") << size << "\n";
    std::ofstream(folder / "shared_cpu_list") << shared_by << "\n";
  }
  int64_t bytes(const std::vector<int>& cpus) const {
    return largest_cache_bytes(cpus, root_.path());
  }

  testing::TempDir root_;
};

TEST_F(CacheSize, NothingIsKnownWithoutSys) { EXPECT_EQ(bytes({0, 1}), 0); }

TEST_F(CacheSize, ACacheCountsOnceForAllThatShareIt) {
  for (int cpu = 0; cpu < 4; ++cpu) {
    cache(cpu, 0, "48K", std::to_string(cpu));
    cache(cpu, 2, "2048K", std::to_string(cpu));
    cache(cpu, 3, "32M", cpu < 2 ? "0-1" : "2-3");
  }
  EXPECT_EQ(bytes({0, 1}), 32 << 20);
  EXPECT_EQ(bytes({1}), 32 << 20);
  EXPECT_EQ(bytes({0, 1, 2, 3}), 64 << 20);
}

TEST_F(CacheSize, TheLargestOfACoreCountsWhereNoneIsShared) {
  for (int cpu = 0; cpu < 2; ++cpu) {
    cache(cpu, 0, "65536", std::to_string(cpu));
    cache(cpu, 1, "1024K", std::to_string(cpu));
  }
  EXPECT_EQ(bytes({0, 1}), 2 << 20);
}

TEST_F(CacheSize, NonsenseIsNoCache) {
  cache(0, 0, "-5K", "0");
  cache(0, 1, "large", "0");
  cache(0, 2, "99999999999999999999M", "0");
  EXPECT_EQ(bytes({0}), 0);
}

TEST(AffinityCpuNumbers, AreThoseOfTheMask) { EXPECT_FALSE(affinity_cpu_numbers().empty()); }

}  // namespace
}  // namespace moe4
