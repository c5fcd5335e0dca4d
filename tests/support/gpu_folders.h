// Which small checkpoints GPUs run.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "support/shared_models.h"

namespace moe4::testing {

/// Names of the folders of tests/data/checkpoints whose golden has float32 logits and the greedy
/// text of transformers, in order.
inline std::vector<std::string> gpu_folders() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(test_data() / "checkpoints")) {
    const std::string name = entry.path().filename().string();
    if (!std::filesystem::exists(entry.path() / "golden/w4a16.safetensors")) continue;
    names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace moe4::testing
