// The GPUs of this machine as Devices.
#pragma once

#include "base/device.h"

namespace moe4::cuda {

/// The machine's GPU `index`; kind kCpu when there is none. Never throws: a machine without a
/// driver is a normal case.
Device describe_device(int index);

}  // namespace moe4::cuda
