// Which safetensors files of a folder are the model's.
#pragma once

#include <filesystem>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace moe4 {

struct WeightFiles {
  enum class Kind {
    kNone,    ///< headers_only and nothing there
    kFile,    ///< `main` is the one file
    kIndex,   ///< `main` names the shards
    kShards,  ///< no index: `shards` are numbered i of n
  };
  Kind kind = Kind::kNone;
  std::filesystem::path main;  ///< where a missing tensor should have been
  std::vector<std::filesystem::path> shards;
  bool is_complete = true;  ///< kShards: no number is missing (else headers_only)
};

/// In this order: model.safetensors.index.json, model.safetensors, the only other index, the only
/// file, the only set of numbered shards. Throws Error(kBadInput) when there are several or none,
/// or when a number is missing and not headers_only.
WeightFiles find_weight_files(const std::filesystem::path& folder, bool headers_only,
                              std::vector<CheckpointNote>& notes);

}  // namespace moe4
