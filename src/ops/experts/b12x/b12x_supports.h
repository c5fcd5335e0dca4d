// What the b12x backend takes; no CUDA needed to ask.
#pragma once

#include "moe/experts.h"

namespace moe4 {

/// SM120 and SM121 natively, every other GPU since SM80 emulated and by name only. Accepts both
/// (nvfp4 static, nvfp4 dynamic) and (nvfp4 static, none): the FC2 input scale is made in
/// prepare(). BF16 activations, or FP4 ones with a global scale of 1 (kFp4) or the calibrated one
/// (kFp4Static).
Support b12x_supports(const ExpertsQuery& query);

}  // namespace moe4
