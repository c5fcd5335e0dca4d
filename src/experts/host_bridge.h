// A GPU layer behind host pointers: how models whose other layers run on the CPU call their
// experts.
#pragma once

#include <memory>

#include "moe/experts.h"

namespace moe4 {

/// backend.prepare(), and for a GPU in `options.device` a layer whose apply() takes host memory:
/// copies in, runs on a stream of its own, copies out and waits. Unlike a backend's own, that
/// apply() allocates when a batch is larger than all before. The host's workspace is not used.
std::unique_ptr<PreparedExperts> prepare_for_host(const ExpertsBackend& backend,
                                                  const MoeLayerWeights& weights,
                                                  const PrepareOptions& options);

}  // namespace moe4
