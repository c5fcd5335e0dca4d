// What moe4 inspect says of a checkpoint, also for other ways in.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/lint.h"

namespace moe4::cli {

// Layers with the same mixer and the same feed-forward part.
struct LayerGroup {
  std::vector<int64_t> layers;
  std::string attention, feed_forward;
};

std::vector<LayerGroup> group_layers(const Checkpoint& checkpoint);

/// What stands in the way of running the model, what opening noticed and, with `with_lint`, what
/// the scales say (the checkpoint is open with its data then).
std::vector<LintFinding> findings_of(const Checkpoint& checkpoint, bool with_lint);

/// What moe4 inspect --json prints.
nlohmann::ordered_json inspect_document(const Checkpoint& checkpoint, bool with_lint);

}  // namespace moe4::cli
