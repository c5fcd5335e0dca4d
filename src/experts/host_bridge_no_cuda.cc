// Without CUDA every backend that can run takes host memory as it is.
#include "experts/host_bridge.h"

namespace moe4 {

std::unique_ptr<PreparedExperts> prepare_for_host(const ExpertsBackend& backend,
                                                  const MoeLayerWeights& weights,
                                                  const PrepareOptions& options) {
  return backend.prepare(weights, options);
}

}  // namespace moe4
