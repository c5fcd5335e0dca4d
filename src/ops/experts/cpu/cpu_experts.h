// The prepared layer of the cpu backend.
#pragma once

#include <memory>

#include "moe/experts.h"
#include "panels/kernels.h"

namespace moe4::cpu {

std::unique_ptr<PreparedExperts> prepare_experts(const MoeLayerWeights& weights,
                                                 const PrepareOptions& options,
                                                 const Kernels& kernels);

}  // namespace moe4::cpu
