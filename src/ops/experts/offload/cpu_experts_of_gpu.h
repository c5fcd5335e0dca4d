// Experts that the CPU computes for a layer on a GPU: for models larger than the GPU's memory, and
// for formats that no GPU backend takes.
#pragma once

#include <memory>

#include "moe/routed_experts.h"

namespace moe4 {

/// Each run() enqueues on the layer's stream: copies of tokens and routing to pinned memory, the
/// experts on their threads, the copy of their sums back. It can be captured in a graph. What the
/// CPU throws meanwhile becomes NaN sums, which commands report.
std::unique_ptr<RoutedExperts> cpu_experts_of_gpu(std::unique_ptr<PreparedExperts> experts,
                                                  const MoeProblem& problem, const Device& device);

}  // namespace moe4
