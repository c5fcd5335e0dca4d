// Embed on NVIDIA GPUs: what it takes.
#include "ops/cuda/implementation.h"
#include "ops/embed/embed.h"

namespace moe4 {

const Implementation<Embed>& cuda_embed() {
  static const CudaImplementation<Embed> implementation;
  return implementation;
}

}  // namespace moe4
