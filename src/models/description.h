// What can be said of a model without reading a weight: why it is refused, and who serves its ops.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/device.h"
#include "checkpoint/checkpoint.h"
#include "models/refusals.h"
#include "ops/op.h"

namespace moe4 {

/// What was asked of an op, and what its implementations said.
struct OpChoice {
  std::string role;  ///< "qkv_proj"
  std::string_view op;
  std::string_view implementation;  ///< "" when nobody can
  std::vector<OpVerdict> verdicts;  ///< of all that were asked, in order

  bool operator==(const OpChoice&) const = default;
};

struct Description {
  std::vector<Refusal> refusals;  ///< see refusals()
  /// The ops of each layer, those of routed experts left out (Selection has them), and of the model
  /// outside its layers. Empty for an unknown architecture; without linears whose tensors are
  /// absent.
  std::vector<std::vector<OpChoice>> layers;
  std::vector<OpChoice> outside;
};

/// Asks ops for this device, which need not be present. Names and headers suffice.
Description describe(const Checkpoint& checkpoint, const Device& device = Device::cpu());

}  // namespace moe4
