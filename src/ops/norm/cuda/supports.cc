// AddNorm on NVIDIA GPUs: what it takes.
#include "ops/cuda/implementation.h"
#include "ops/norm/add_norm.h"

namespace moe4 {

const Implementation<AddNorm>& cuda_add_norm() {
  static const CudaImplementation<AddNorm> implementation;
  return implementation;
}

}  // namespace moe4
