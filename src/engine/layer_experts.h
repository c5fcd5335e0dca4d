// The routed experts of one layer alone (`moe4 experts`, compare, tests).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/model.h"

namespace moe4 {

/// y [T, H] float32 of x [T, H] float32. The router decides when topk_ids is empty; ids and weights
/// [T, k] are filled then. Throws Error(kUsage) for a layer without routed experts and
/// Error(kBadInput) for wrong shapes.
void run_layer_experts(const Model& model, int64_t layer, std::span<const float> x,
                       std::vector<int32_t>& topk_ids, std::vector<float>& topk_weights,
                       std::vector<float>& y);

}  // namespace moe4
