// What can be said of a model without reading a weight: why it is refused, and who serves its ops.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/device.h"
#include "checkpoint/checkpoint.h"
#include "models/refusals.h"
#include "moe/problem.h"
#include "ops/batch.h"
#include "ops/op.h"

namespace moe4 {

/// What was asked of an op, and what its implementations said.
struct OpChoice {
  std::string role;  ///< "qkv_proj"
  std::string_view op;
  std::string_view implementation;  ///< "" when nobody can
  std::vector<OpVerdict> verdicts;  ///< of all that were asked, in order
  int64_t weight_bytes = 0;         ///< as stored; of a Describer

  bool operator==(const OpChoice&) const = default;
};

/// Routed experts of one layer.
struct LayerExperts {
  int64_t layer = 0;
  MoeProblem problem;
  int64_t bytes = 0;  ///< as stored
};

/// What decides how much memory a model takes.
struct ModelSizes {
  int64_t weight_bytes = 0;  ///< as stored, of all that it reads but routed experts
  std::vector<LayerExperts> experts;
  std::vector<CacheSpec> caches;  ///< as Model::caches()
  int64_t layer_values = 0;  ///< that a token gives and takes in the linears of the largest layer
};

struct Description {
  std::vector<Refusal> refusals;  ///< see refusals()
  /// The ops of each layer, those of routed experts left out (Selection has them), and of the model
  /// outside its layers. Empty for an unknown architecture; without linears whose tensors are
  /// absent.
  std::vector<std::vector<OpChoice>> layers;
  std::vector<OpChoice> outside;
  ModelSizes sizes;  ///< nothing where the architecture file could not be run
};

/// Asks ops for this device, which need not be present, and caches of this dtype. Names and headers
/// suffice.
Description describe(const Checkpoint& checkpoint, const Device& device = Device::cpu(),
                     DType cache_dtype = DType::kF16);

}  // namespace moe4
