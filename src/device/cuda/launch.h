// Kernel launches with or without programmatic dependent launch.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "device/cuda/cuda_check.h"

namespace moe4::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
  /// Start when the kernel before has called launch_dependents() everywhere; the kernel itself then
  /// waits with wait_for_previous_kernel(). Needs SM90; ask Device or LayerDevice.
  bool dependent = false;
  /// Blocks along x that form a cluster. More than one needs SM90.
  unsigned cluster = 1;
};

template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), const LaunchShape& shape, Args&&... args) {
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (shape.dependent) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = shape.cluster;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  }
  MOE4_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...));
}

}  // namespace moe4::cuda
