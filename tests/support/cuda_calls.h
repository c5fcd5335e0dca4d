// Counts what a test program asks of the CUDA runtime and of operator new: the linker sends the
// calls through cuda_calls.cc (--wrap), so nothing of ours escapes the count.
#pragma once

#include <cstdint>

namespace moe4::testing {

struct CudaCalls {
  int64_t allocations = 0;  ///< cudaMalloc, cudaMallocAsync, cudaMallocHost, cudaHostAlloc, ...
  int64_t frees = 0;        ///< and their counterparts, which synchronise
  int64_t synchronisations = 0;  ///< cuda*Synchronize and copies that wait
  int64_t host_allocations = 0;  ///< operator new on the calling thread
};
/// Since the program started.
CudaCalls cuda_calls();

/// For whoever defines operator new: host_new.cc, or op_device_gpu.cc.
void count_host_allocation();

/// Bytes of device memory held through cudaMalloc now, and the most since the last reset.
int64_t device_bytes();
int64_t peak_device_bytes();
void reset_peak_device_bytes();

/// Compute capability times ten that the runtime claims for every GPU, with the shared memory of
/// such a GPU: MOE4_TEST_SM (80, 86, 121, ...); 0 without it. For programs whose kernels were
/// compiled for it: the code of older or smaller GPUs runs on a newer one (docs/gpu-testing.md).
int pretended_sm();

}  // namespace moe4::testing
