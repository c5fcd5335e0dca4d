// Owning device and pinned host memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "device/cuda/cuda_check.h"

namespace moe4::cuda {

struct FreeDevice {
  void operator()(void* p) const { cudaFree(p); }
};
struct FreePinned {
  void operator()(void* p) const { cudaFreeHost(p); }
};

/// Uninitialised. Both throw Error(kUnavailable) when memory is short; zero bytes give null.
template <typename T>
std::unique_ptr<T[], FreeDevice> allocate_device(int64_t count) {
  void* p = nullptr;
  if (count > 0) MOE4_CUDA_CHECK(cudaMalloc(&p, static_cast<size_t>(count) * sizeof(T)));
  return std::unique_ptr<T[], FreeDevice>(static_cast<T*>(p));
}

template <typename T>
std::unique_ptr<T[], FreePinned> allocate_pinned(int64_t count) {
  void* p = nullptr;
  if (count > 0) MOE4_CUDA_CHECK(cudaMallocHost(&p, static_cast<size_t>(count) * sizeof(T)));
  return std::unique_ptr<T[], FreePinned>(static_cast<T*>(p));
}

template <typename T>
using DeviceArray = std::unique_ptr<T[], FreeDevice>;
template <typename T>
using PinnedArray = std::unique_ptr<T[], FreePinned>;

/// Makes `device` current and puts the one before back.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    MOE4_CUDA_CHECK(cudaGetDevice(&previous_));
    MOE4_CUDA_CHECK(cudaSetDevice(device));
  }
  ~DeviceGuard() { cudaSetDevice(previous_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
};

}  // namespace moe4::cuda
