// Small arrays of an op's weights in device memory.
#pragma once

#include <span>

#include "device/cuda/device_buffer.h"

namespace moe4::cuda {

/// A copy of `values` on the current device; null for none.
template <typename T>
DeviceArray<T> to_device(std::span<const T> values) {
  DeviceArray<T> array = allocate_device<T>(static_cast<int64_t>(values.size()));
  if (!values.empty()) {
    MOE4_CUDA_CHECK(
        cudaMemcpy(array.get(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice));
  }
  return array;
}

}  // namespace moe4::cuda
