// The floor of a memory-bound layer: one kernel that reads as many cold bytes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <vector>

namespace moe4::cuda {

struct GraphTime {
  double median = 0;  ///< microseconds a call
  double spread = 0;  ///< (slowest - fastest) / median
  double sm_mhz = 0;  ///< SM clock during the replays
};

/// Captures call(0) .. call(calls - 1) into one graph and times `replays` launches of it.
GraphTime time_in_graph(cudaStream_t stream, int calls, int replays,
                        const std::function<void(int)>& call);

/// Reads `bytes` of `memory` (of `size` bytes, far larger than the L2) at rotating places; the best
/// of several grids. Microseconds.
double time_cold_read(const std::byte* memory, size_t size, size_t bytes, cudaStream_t stream);

}  // namespace moe4::cuda
