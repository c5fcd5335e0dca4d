// Compares a planned GPU with the one that is here.
#include "ops/experts/gpu/device_present.h"

#include <fmt/format.h>

#include "device/cuda/describe_device.h"

namespace moe4::cuda {

Support device_present(const Device& device, int min_sm) {
  if (device.is_cpu()) return Rejection{Rejection::Kind::kDevice, "it needs an NVIDIA GPU"};
  const Device found = describe_device(device.index);
  if (found.is_cpu()) {
    return Rejection{Rejection::Kind::kDevice,
                     fmt::format("this machine has no GPU {}", device.index)};
  }
  if (found.sm < min_sm) {
    return Rejection{Rejection::Kind::kDevice, fmt::format("it needs sm_{}, GPU {} is {}", min_sm,
                                                           device.index, to_string(found))};
  }
  if (device.sm != 0 && device.sm != found.sm) {
    return Rejection{Rejection::Kind::kDevice, fmt::format("GPU {} is {}, not {}", device.index,
                                                           to_string(found), to_string(device))};
  }
  return std::nullopt;
}

}  // namespace moe4::cuda
