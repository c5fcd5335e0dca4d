// Looks for what is legal in a checkpoint but costs accuracy, or looks like a mistake of its maker.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace moe4 {

struct LintFinding {
  enum class Level {
    kInfo,     ///< worth knowing, costs nothing
    kWarning,  ///< numbers may be worse than they could be
    kError,    ///< running this layer will be refused
  };
  Level level = Level::kWarning;
  /// Stable, for scripts: "metadata", "missing-tensor", "unusable-layer", "unexpected-tensor",
  /// "weight-scale", "gate-up-scales", "block-scale-nan", "block-scale-negative",
  /// "block-scale-zero", "block-scale-subnormal", "global-scale", "folded-scales",
  /// "uncalibrated-expert".
  std::string code;
  std::string tensor;  ///< the tensor, or "model.layers.3.mlp.experts" for a whole layer
  std::string message;
};

/// Reads every scale of a checkpoint that was opened with its data, errors first. Findings about
/// experts are added up per layer. Never throws for what it finds.
std::vector<LintFinding> lint(const Checkpoint& checkpoint);

/// "info", "warning", "error".
std::string to_string(LintFinding::Level level);

}  // namespace moe4
