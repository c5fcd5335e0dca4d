// What the hopper backend takes; no CUDA needed to ask.
#pragma once

#include "moe/experts.h"

namespace moe4 {

/// SM90 alone (wgmma and TMA); otherwise as marlin.
Support hopper_supports(const ExpertsQuery& query);

/// The number of tokens in a call decides between marlin's kernels and wgmma, unless calls say
/// which tokens were generated.
BatchBehavior hopper_batch_behavior(const ExpertsQuery& query);

inline constexpr TuningOption kHopperMinTokens{"hopper.min_tokens", "a number of tokens"};
inline constexpr TuningOption kHopperTiles{"hopper.tiles", "16, 24, 40, small or large"};
inline constexpr TuningOption kHopperTuning[] = {kHopperMinTokens, kHopperTiles};

}  // namespace moe4
