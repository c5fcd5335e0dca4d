// How many cores this process may use: affinity mask and the CPU quota of its control group.
#pragma once

#include <filesystem>
#include <optional>

namespace moe4 {

/// Cores in the affinity mask (taskset, cpuset), at least 1.
int affinity_cpus();

/// Cores' worth of time that the control group of this process and those above it allow, e.g. 1.5;
/// none without a quota. cgroup v2 (cpu.max) and v1 (cpu.cfs_quota_us / cpu.cfs_period_us).
/// `root`: where /proc and /sys are looked for.
std::optional<double> cgroup_cpu_quota(const std::filesystem::path& root = "/");

/// Threads that run at the same time: the affinity mask, cut to the whole cores of the quota, since
/// a group above its quota stands still until the next period. At least 1.
int usable_cpus();

}  // namespace moe4
