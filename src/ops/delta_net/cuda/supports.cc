// DeltaNet on NVIDIA GPUs: what it takes.
#include "ops/cuda/implementation.h"
#include "ops/delta_net/delta_net.h"

namespace moe4 {
namespace {

Support refuse(const std::string& why) { return Rejection{Rejection::Kind::kShape, why}; }

Support accepts(const DeltaNet::Problem& problem) {
  if (problem.conv_taps < 1 || problem.conv_taps > 4) {
    return refuse("a convolution over " + std::to_string(problem.conv_taps) +
                  " tokens is not one over 1 to 4");
  }
  if (problem.num_key_heads <= 0 || problem.num_value_heads % problem.num_key_heads != 0) {
    return refuse("value heads are no multiple of key heads");
  }
  if (problem.num_value_heads > 8 * problem.num_key_heads) {
    return refuse("more than 8 value heads share a key head");
  }
  if (problem.ring < 1 || problem.ring > DeltaNet::kMaxRing ||
      (problem.ring & (problem.ring - 1)) != 0) {
    return refuse("a ring of " + std::to_string(problem.ring) + " tokens is none of 1, 2, 4, 8");
  }
  for (const int64_t width : {problem.key_dim, problem.value_dim}) {
    if (width % 16 != 0 || width < 16 || width > 128) {
      return refuse("the width of heads, " + std::to_string(width) +
                    ", is no multiple of 16 up to 128");
    }
  }
  return std::nullopt;
}

}  // namespace

const Implementation<DeltaNet>& cuda_delta_net() {
  static const CudaImplementation<DeltaNet> implementation(accepts);
  return implementation;
}

}  // namespace moe4
