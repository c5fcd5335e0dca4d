// RotaryAngles on NVIDIA GPUs: what it takes.
#include "ops/cuda/implementation.h"
#include "ops/rotary/rotary_angles.h"

namespace moe4 {

const Implementation<RotaryAngles>& cuda_rotary_angles() {
  static const CudaImplementation<RotaryAngles> implementation;
  return implementation;
}

}  // namespace moe4
