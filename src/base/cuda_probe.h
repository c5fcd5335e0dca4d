// Asks the NVIDIA driver which GPU is here, without linking to CUDA.
#pragma once

#include <cstdint>

#include "base/device.h"

namespace moe4 {

/// The GPU `index` of this machine. Throws Error(kUnavailable) saying what is missing: the driver,
/// or a device.
Device probe_cuda_device(int index = 0);
/// Its memory in bytes; 0 when the driver does not tell.
int64_t probe_cuda_memory(int index = 0);

}  // namespace moe4
