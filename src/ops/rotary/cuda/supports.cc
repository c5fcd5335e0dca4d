// RotaryAngles on NVIDIA GPUs: what it takes.
#include "ops/cuda/implementation.h"
#include "ops/rotary/rotary_angles.h"

namespace moe4 {
namespace {

Support accepts(const RotarySpec& problem) {
  if (problem.step == 1) return std::nullopt;
  return Rejection{Rejection::Kind::kShape, "its positions count one by one, not in steps of " +
                                                std::to_string(problem.step)};
}

}  // namespace

const Implementation<RotaryAngles>& cuda_rotary_angles() {
  static const CudaImplementation<RotaryAngles> implementation(accepts);
  return implementation;
}

}  // namespace moe4
