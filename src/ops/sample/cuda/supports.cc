// Sample on NVIDIA GPUs: what it takes.
#include "ops/cuda/implementation.h"
#include "ops/sample/sample.h"

namespace moe4 {

const Implementation<Sample>& cuda_sample() {
  static const CudaImplementation<Sample> implementation;
  return implementation;
}

}  // namespace moe4
