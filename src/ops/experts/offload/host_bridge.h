// A GPU layer behind host pointers: how models whose other layers run on the CPU call their
// experts.
#pragma once

#include <memory>

#include "moe/experts.h"
#include "moe/host_experts.h"

namespace moe4 {

/// Prepares a layer that takes host memory wherever it runs: backend.prepare() for the CPU, and for
/// a GPU in `options.device` that behind copies: each call copies in, runs on a stream of its own,
/// copies out and waits. Throws what prepare() throws.
std::unique_ptr<HostExperts> prepare_for_host(const ExpertsBackend& backend,
                                              const MoeLayerWeights& weights,
                                              const PrepareOptions& options);

}  // namespace moe4
