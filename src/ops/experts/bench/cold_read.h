// The floor of a memory-bound layer: one kernel that reads as many cold bytes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace moe4::cuda {

/// Reads `bytes` of `memory` (of `size` bytes, far larger than the L2) at rotating places; the best
/// of several grids. Microseconds.
double time_cold_read(const std::byte* memory, size_t size, size_t bytes, cudaStream_t stream);

}  // namespace moe4::cuda
