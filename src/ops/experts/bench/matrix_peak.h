// The arithmetic ceiling of a GPU in BF16, measured.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace moe4::cuda {

struct MatrixPeak {
  double tflops = 0;     ///< of ten products after three: as fast as the chip goes
  double sustained = 0;  ///< of the second quarter of a second, at its power limit; 0: unknown
  std::string how;       ///< "cuBLAS, 8192^3, random normal data"
};

/// A dense product by cuBLAS where its library can be loaded: what a user can reach. Else a loop of
/// matrix instructions on random operands in registers and shared memory: wgmma on SM90, mma.sync
/// elsewhere; the data matters, since power limits the clock.
MatrixPeak measure_bf16_peak(cudaStream_t stream);

}  // namespace moe4::cuda
