// The folder layout of Hugging Face's download cache.
#pragma once

#include <filesystem>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace moe4 {

/// `path` itself, unless it is the root of one repository in the cache (models--org--name, with
/// snapshots/ and refs/ below): then the snapshot that refs/main names, else the only one, with a
/// note. Throws Error(kBadInput) when neither tells which.
std::filesystem::path resolve_hub_cache(const std::filesystem::path& path,
                                        std::vector<CheckpointNote>& notes);

}  // namespace moe4
