// Why a checkpoint is not run: what it asks for and moe4 does not compute, by name.
#pragma once

#include <string>
#include <vector>

#include "base/device.h"
#include "base/error.h"
#include "checkpoint/checkpoint.h"

namespace moe4 {

struct Refusal {
  /// Stable, for scripts: "unknown-architecture", "unsupported-setting", "unsupported-transform",
  /// "unsupported-problem", "unexpected-tensor", "missing-tensor", "unusable-tensor".
  std::string code;
  std::string where;    ///< key, tensor or module
  std::string message;  ///< the sentence that Model::load throws

  /// With the sentence of throw_bad_input(details).
  static Refusal from(std::string code, const BadInput& details);
};

/// Everything for which Model::load refuses the checkpoint before it reads a weight: settings and
/// transforms that would change the numbers, tensors that are missing, tensors that nobody reads.
/// Names and headers suffice; where shards are absent their tensors are not missed. Empty: it runs,
/// as far as can be told without the data.
std::vector<Refusal> refusals(const Checkpoint& checkpoint, const Device& device = Device::cpu());

}  // namespace moe4
