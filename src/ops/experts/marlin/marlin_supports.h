// What the marlin backend takes; no CUDA needed to ask.
#pragma once

#include "moe/experts.h"

namespace moe4 {

/// SM80 and later; NVFP4 weights whatever their activation key; BF16 activations only; every
/// non-linearity; EP maps and TP shards in whole blocks of 16.
Support marlin_supports(const ExpertsQuery& query);

inline constexpr TuningOption kMarlinFc2{"marlin.fc2", "rows or experts"};

}  // namespace moe4
