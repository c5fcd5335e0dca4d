// How much the caches hold that the cores of this process read through.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace moe4 {

/// Numbers of the cores in the affinity mask.
std::vector<int> affinity_cpu_numbers();

/// Bytes of the largest caches of `cpus`, each counted once however many of them share it; 0 where
/// the system does not say. `root`: where /sys is looked for.
int64_t largest_cache_bytes(const std::vector<int>& cpus = affinity_cpu_numbers(),
                            const std::filesystem::path& root = "/");

}  // namespace moe4
