// LinearGroup on NVIDIA GPUs: what it takes.
#include "ops/cuda/implementation.h"
#include "ops/linear/cuda/panel.h"
#include "ops/linear/linear_group.h"

namespace moe4 {
namespace {

Support accepts(const LinearGroup::Problem& problem) {
  if (problem.members.size() > cuda::kMaxMembers) {
    return Rejection{Rejection::Kind::kShape, "it takes at most 8 linears at once"};
  }
  if (problem.in_features > cuda::kMaxInputs) {
    return Rejection{Rejection::Kind::kShape, "it takes at most 24576 inputs"};
  }
  for (const LinearGroup::Member& member : problem.members) {
    const bool fp4 = member.scheme.is_nvfp4() && member.scheme.activation &&
                     (member.options.activations == ActivationMode::kFp4 ||
                      member.options.activations == ActivationMode::kFp4Static);
    const bool fp8 =
        member.scheme.is_fp8() && member.scheme.activation && member.options.fp8_activations;
    if (fp4 || fp8) {
      return Rejection{Rejection::Kind::kScheme, "it takes inputs as BF16, not quantised"};
    }
  }
  return std::nullopt;
}

}  // namespace

const Implementation<LinearGroup>& cuda_linear_group() {
  static const CudaImplementation<LinearGroup> implementation(accepts);
  return implementation;
}

}  // namespace moe4
