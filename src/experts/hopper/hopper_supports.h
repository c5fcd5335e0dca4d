// What the hopper backend takes; no CUDA needed to ask.
#pragma once

#include "moe/experts.h"

namespace moe4 {

/// SM90 alone (wgmma and TMA); otherwise as marlin.
Support hopper_supports(const ExpertsQuery& query);

}  // namespace moe4
