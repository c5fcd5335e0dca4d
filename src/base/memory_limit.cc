// Reads /proc/meminfo, the control group and the resource limits.
#include "base/memory_limit.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

namespace moe4 {
namespace {

namespace fs = std::filesystem;

std::optional<int64_t> number_in(const fs::path& file) {
  int64_t value = 0;
  if (!(std::ifstream(file) >> value)) return std::nullopt;  // "max" is no number
  return value;
}

// Kilobytes of "Name:  123 kB".
int64_t meminfo(const fs::path& root, const std::string& name) {
  std::ifstream file(root / "proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(name + ":")) continue;
    int64_t value = 0;
    std::istringstream(line.substr(name.size() + 1)) >> value;
    return value;
  }
  return 0;
}

// Pages of files in the group's memory are given back when memory is short.
int64_t file_cache(const fs::path& stat_file, const std::string& key) {
  std::ifstream file(stat_file);
  std::string name;
  for (int64_t value = 0; file >> name >> value;) {
    if (name == key) return value;
  }
  return 0;
}

}  // namespace

OutOfMemory::OutOfMemory(int64_t bytes)
    : Error(ErrorCode::kUnavailable, "out of memory: cannot allocate " + memory_text(bytes) + "; " +
                                         memory_text(available_memory().bytes) + " are available"),
      bytes_(bytes) {}

AvailableMemory available_memory(const fs::path& root) {
  AvailableMemory least{.bytes = (meminfo(root, "MemAvailable") + meminfo(root, "SwapFree")) << 10,
                        .limited_by = "the machine"};
  const auto limit = [&](int64_t bytes, const char* by) {
    if (bytes < least.bytes) least = {.bytes = std::max<int64_t>(bytes, 0), .limited_by = by};
  };
  const auto group_limit = [&](const fs::path& group, const char* max, const char* current,
                               const char* cache) {
    const auto most = number_in(group / max), used = number_in(group / current);
    if (most && used) {
      limit(*most - *used + file_cache(group / "memory.stat", cache), "the control group");
    }
  };
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool v2 = controllers.empty();
    if (!v2 && controllers != "memory") continue;
    const fs::path mount = root / (v2 ? "sys/fs/cgroup" : "sys/fs/cgroup/memory");
    fs::path group = line.substr(second + 1);
    for (int depth = 0; depth < 64; ++depth) {
      const fs::path here = mount / group.relative_path();
      if (v2) {
        group_limit(here, "memory.max", "memory.current", "inactive_file");
      } else {
        group_limit(here, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file");
      }
      if (!group.has_relative_path()) break;
      group = group.parent_path();
    }
  }
  rlimit space{};
  if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY) {
    const int64_t pages = number_in(root / "proc/self/statm").value_or(0);
    const auto most =
        static_cast<int64_t>(std::min<rlim_t>(space.rlim_cur, std::numeric_limits<int64_t>::max()));
    limit(most - pages * sysconf(_SC_PAGESIZE), "ulimit -v");
  }
  return least;
}

std::string memory_text(int64_t bytes) {
  char text[32];
  if (bytes >= int64_t{1} << 30) {
    std::snprintf(text, sizeof text, "%.1f GiB", static_cast<double>(bytes) / (1 << 30));
  } else {
    std::snprintf(text, sizeof text, "%lld MiB",
                  static_cast<long long>((bytes + (1 << 20) - 1) >> 20));
  }
  return text;
}

}  // namespace moe4
