// Whether a planned GPU is really here.
#pragma once

#include "moe/experts.h"

namespace moe4::cuda {

/// nullopt when `device.index` exists, is at least `min_sm` and is the generation asked for.
Support device_present(const Device& device, int min_sm);

}  // namespace moe4::cuda
