// CUDA errors as moe4::Error, with the call that failed.
#pragma once

#include <cuda_runtime_api.h>

namespace moe4::cuda {

/// Throws Error(kUnavailable) naming the call, the file and CUDA's reason.
[[noreturn]] void throw_cuda_error(cudaError_t error, const char* call, const char* file, int line);

}  // namespace moe4::cuda

#define MOE4_CUDA_CHECK(call)                                                     \
  do {                                                                            \
    const cudaError_t moe4_cuda_error = (call);                                   \
    if (moe4_cuda_error != cudaSuccess)                                           \
      ::moe4::cuda::throw_cuda_error(moe4_cuda_error, #call, __FILE__, __LINE__); \
  } while (false)
