// The b12x backend of a program with CUDA: native on SM120 and SM121, emulated elsewhere.
#include "ops/experts/b12x/b12x_backend.h"

#include <cuda_runtime_api.h>

#include "base/error.h"
#include "ops/experts/b12x/b12x_supports.h"
#include "ops/experts/b12x/prepared_layer.h"
#include "ops/experts/gpu/routing_tables.h"

namespace moe4 {

Support B12xBackend::supports(const ExpertsQuery& query) const { return b12x_supports(query); }

Support B12xBackend::runnable(const Device& device) const {
  if (device.is_cpu()) {
    return Rejection{Rejection::Kind::kDevice, "it runs on CUDA devices, not on the CPU"};
  }
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    return Rejection{Rejection::Kind::kDevice,
                     std::string("CUDA finds no device: ") + cudaGetErrorString(error)};
  }
  if (device.index >= count) {
    return Rejection{Rejection::Kind::kDevice, "this machine has " + std::to_string(count) +
                                                   " CUDA devices, not number " +
                                                   std::to_string(device.index)};
  }
  return std::nullopt;
}

std::unique_ptr<PreparedExperts> B12xBackend::prepare(const MoeLayerWeights& weights,
                                                      const PrepareOptions& options) const {
  if (weights.problem.num_local_experts > cuda::kMaxLocalExperts) {
    throw Error(ErrorCode::kUnavailable, "b12x: a process can hold " +
                                             std::to_string(cuda::kMaxLocalExperts) +
                                             " experts of a layer, not " +
                                             std::to_string(weights.problem.num_local_experts));
  }
  return std::make_unique<b12x::PreparedLayer>(weights, options);
}

}  // namespace moe4
