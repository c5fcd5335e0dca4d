// Wording of CUDA errors.
#include "device/cuda/cuda_check.h"

#include <fmt/format.h>

#include "base/error.h"

namespace moe4::cuda {

void throw_cuda_error(cudaError_t error, const char* call, const char* file, int line) {
  cudaGetLastError();  // a sticky error stays, any other must not surface in the next check
  throw Error(ErrorCode::kUnavailable,
              fmt::format("CUDA: {} ({}) from {} at {}:{}", cudaGetErrorString(error),
                          cudaGetErrorName(error), call, file, line));
}

}  // namespace moe4::cuda
