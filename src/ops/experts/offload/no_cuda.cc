// Without CUDA every backend that can run takes host memory as it is.
#include "ops/experts/offload/host_bridge.h"

namespace moe4 {

std::unique_ptr<HostExperts> prepare_for_host(const ExpertsBackend& backend,
                                              const MoeLayerWeights& weights,
                                              const PrepareOptions& options) {
  return host_experts(backend.prepare(weights, options));
}

}  // namespace moe4
