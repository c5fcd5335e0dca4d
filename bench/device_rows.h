// What the benchmarks of single ops put on a GPU: arrays from the host, and rows of small values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "device/cuda/device_buffer.h"
#include "ops/rows.h"

namespace moe4 {

template <typename T>
cuda::DeviceArray<T> on_device(const std::vector<T>& values) {
  auto array = cuda::allocate_device<T>(static_cast<int64_t>(values.size()));
  MOE4_CUDA_CHECK(
      cudaMemcpy(array.get(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return array;
}

/// Rows of small values.
struct DeviceRows {
  DeviceRows(int64_t tokens, int64_t width, RowFormat format)
      : memory(cuda::allocate_device<std::byte>(tokens * width * element_bytes(format))),
        rows{memory.get(), format, tokens, width, width} {
    MOE4_CUDA_CHECK(cudaMemset(memory.get(), 0x3c, tokens * width * element_bytes(format)));
  }
  cuda::DeviceArray<std::byte> memory;
  Rows rows;
};

}  // namespace moe4
