// Asks the NVIDIA driver which GPU is here, without linking to CUDA.
#pragma once

#include "base/device.h"

namespace moe4 {

/// The GPU `index` of this machine. Throws Error(kUnavailable) saying what is missing: the driver,
/// or a device.
Device probe_cuda_device(int index = 0);

}  // namespace moe4
