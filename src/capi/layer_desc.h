// From moe4_layer_desc to canonical weights: every check of a description.
#pragma once

#include <vector>

#include "base/device.h"
#include "base/dtype.h"
#include "moe/selector.h"
#include "moe/weights.h"
#include "moe4/moe4.h"

namespace moe4::capi {

enum class Weights { kLookAt, kIgnore };

/// Checks of the plain fields. Throws Error(kUsage) naming the field, with what is wrong.
void check_desc(const moe4_layer_desc& desc, Weights weights);

/// As the backend sees it: of one rank, and with local experts only where calls bring the map.
MoeProblem problem_of(const moe4_layer_desc& desc);
QuantScheme scheme_of(const moe4_layer_desc& desc);
/// Throws Error(kUsage) for what is none; `what`: "moe4_layer_apply".
DType dtype_of(moe4_dtype dtype, const char* what);
/// Throws Error(kUnavailable) for a GPU that is not there.
SelectorOptions selector_options(const moe4_layer_desc& desc);

/// What the C caller gave, in canonical form, and the host memory that some of it needs.
struct Canonical {
  MoeLayerWeights weights;
  std::vector<std::vector<uint16_t>> biases;
};

/// Of a description that check_desc() has passed. Throws Error(kUsage) for what it cannot know, and
/// Error(kBadInput) naming the expert of a scale that is none.
Canonical canonical_of(const moe4_layer_desc& desc);

}  // namespace moe4::capi
