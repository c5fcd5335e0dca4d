// Queries of the CUDA runtime.
#include "device/cuda/describe_device.h"

#include <cuda_runtime_api.h>

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

}  // namespace moe4::cuda
