// Reads the affinity mask and /sys/fs/cgroup.
#include "base/cpu_count.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

namespace moe4 {
namespace {

namespace fs = std::filesystem;

// "max 100000" or "150000 100000": microseconds a period.
std::optional<double> quota_v2(const fs::path& group) {
  std::ifstream file(group / "cpu.max");
  std::string quota;
  double period = 0, allowed = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return std::nullopt;
  if (!(std::istringstream(quota) >> allowed) || allowed <= 0) return std::nullopt;
  return allowed / period;
}

std::optional<double> quota_v1(const fs::path& group) {
  double quota = 0, period = 0;
  if (!(std::ifstream(group / "cpu.cfs_quota_us") >> quota)) return std::nullopt;
  if (!(std::ifstream(group / "cpu.cfs_period_us") >> period)) return std::nullopt;
  if (quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

// The least of `group` and the groups above it. A container may see its group as the mount's root
// while /proc names the path on the host: paths that are absent count as the root.
template <typename Quota>
void least_of(const fs::path& mount, fs::path group, const Quota& quota,
              std::optional<double>& least) {
  for (int depth = 0; depth < 64; ++depth) {
    if (const auto here = quota(mount / group.relative_path())) {
      least = least ? std::min(*least, *here) : *here;
    }
    if (!group.has_relative_path()) return;
    group = group.parent_path();
  }
}

bool lists_cpu(const std::string& controllers) {
  std::istringstream list(controllers);
  for (std::string name; std::getline(list, name, ',');) {
    if (name == "cpu") return true;
  }
  return false;
}

}  // namespace

int affinity_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

std::optional<double> cgroup_cpu_quota(const fs::path& root) {
  const fs::path mounts = root / "sys/fs/cgroup";
  std::optional<double> least;
  std::ifstream groups(root / "proc/self/cgroup");
  // "0::/path" is cgroup v2, "1:cpu,cpuacct:/path" a hierarchy of v1.
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path group = line.substr(second + 1);
    if (controllers.empty()) {
      least_of(mounts, group, quota_v2, least);
      least_of(mounts / "unified", group, quota_v2, least);
    } else if (lists_cpu(controllers)) {
      least_of(mounts / controllers, group, quota_v1, least);
      if (controllers != "cpu") least_of(mounts / "cpu", group, quota_v1, least);
    }
  }
  return least;
}

int usable_cpus() {
  const int cpus = affinity_cpus();
  const std::optional<double> quota = cgroup_cpu_quota();
  return quota && *quota < cpus ? std::max(1, static_cast<int>(*quota)) : cpus;
}

}  // namespace moe4
