// Ssm on NVIDIA GPUs: what it takes.
#include "ops/cuda/implementation.h"
#include "ops/ssm/ssm.h"

namespace moe4 {
namespace {

Support refuse(const std::string& why) { return Rejection{Rejection::Kind::kShape, why}; }

Support accepts(const Ssm::Problem& problem) {
  if (problem.conv_taps < 1 || problem.conv_taps > 4) {
    return refuse("a convolution over " + std::to_string(problem.conv_taps) +
                  " tokens is not one over 1 to 4");
  }
  if (problem.num_groups <= 0 || problem.num_heads % problem.num_groups != 0) {
    return refuse("heads are no multiple of groups");
  }
  if (problem.head_dim % 16 != 0 || problem.head_dim < 16 || problem.head_dim > 128) {
    return refuse("the width of heads, " + std::to_string(problem.head_dim) +
                  ", is no multiple of 16 up to 128");
  }
  if (problem.state_dim % 4 != 0 || problem.state_dim < 4 || problem.state_dim > 128) {
    return refuse("the width of states, " + std::to_string(problem.state_dim) +
                  ", is no multiple of 4 up to 128");
  }
  return std::nullopt;
}

}  // namespace

const Implementation<Ssm>& cuda_ssm() {
  static const CudaImplementation<Ssm> implementation(accepts);
  return implementation;
}

}  // namespace moe4
