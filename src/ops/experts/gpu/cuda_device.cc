// Queries of the CUDA runtime that never throw: a machine without a driver is a normal case.
#include "ops/experts/gpu/cuda_device.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

namespace moe4::cuda {

Device describe_device(int index) {
  int count = 0, major = 0, minor = 0, sms = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || index < 0 || index >= count) {
    cudaGetLastError();
    return Device::cpu();
  }
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
  cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, index);
  return {.kind = Device::Kind::kCuda, .sm = major * 10 + minor, .index = index, .sm_count = sms};
}

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
