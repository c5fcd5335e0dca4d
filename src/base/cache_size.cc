// Reads the affinity mask and /sys/devices/system/cpu.
#include "base/cache_size.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <string>

namespace moe4 {
namespace {

namespace fs = std::filesystem;

// "266240K", "32M"; 0 for what is no size.
int64_t size_in(const fs::path& file) {
  int64_t size = 0;
  char unit = 0;
  std::ifstream in(file);
  if (!(in >> size) || size < 0 || size > (int64_t{1} << 40)) return 0;
  in >> unit;
  return unit == 'K' ? size << 10 : unit == 'M' ? size << 20 : size;
}

}  // namespace

std::vector<int> affinity_cpu_numbers() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

int64_t largest_cache_bytes(const std::vector<int>& cpus, const fs::path& root) {
  int64_t bytes = 0;
  std::map<std::string, int64_t> seen;  // by the list of cores that share one
  for (const int cpu : cpus) {
    int64_t largest = 0;
    std::string shared_by;
    for (int index = 0; index < 16; ++index) {
      const fs::path cache = root / "sys/devices/system/cpu" / ("cpu" + std::to_string(cpu)) /
                             "cache" / ("index" + std::to_string(index));
      const int64_t size = size_in(cache / "size");
      if (size <= largest) continue;
      largest = size;
      shared_by = std::to_string(cpu);
      std::ifstream(cache / "shared_cpu_list") >> shared_by;
    }
    if (largest > 0 && seen.emplace(shared_by, largest).second) bytes += largest;
  }
  return bytes;
}

}  // namespace moe4
