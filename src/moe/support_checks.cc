// Wording of the rejections that backends share.
#include "moe/support_checks.h"

#include <fmt/format.h>

#include "base/error.h"

namespace moe4 {

Support require_cuda(const ExpertsQuery& query, int min_sm) {
  if (query.device.is_cpu())
    return Rejection{Rejection::Kind::kDevice, "it needs an NVIDIA GPU, not the CPU"};
  if (query.device.sm < min_sm) {
    return Rejection{Rejection::Kind::kDevice, fmt::format("it needs sm_{} or later, not {}",
                                                           min_sm, to_string(query.device))};
  }
  return std::nullopt;
}

Support require_nvfp4_weights(const ExpertsQuery& query) {
  if (query.scheme.weight == kNvfp4Static) return std::nullopt;
  return Rejection{Rejection::Kind::kScheme,
                   fmt::format("it takes NVFP4 weights only, not {}", to_string(query.scheme))};
}

Support require_fp4_weights(const ExpertsQuery& query) {
  if (query.scheme.weight == kNvfp4Static || query.scheme.weight == kMxfp4Static) {
    return std::nullopt;
  }
  return Rejection{
      Rejection::Kind::kScheme,
      fmt::format("it takes NVFP4 and MXFP4 weights only, not {}", to_string(query.scheme))};
}

Support require_whole_blocks(const ExpertsQuery& query) {
  const MoeProblem& problem = query.problem;
  const int block = fp4_block(query.scheme.weight.format);
  if (problem.hidden_size % block != 0 || problem.intermediate_size % block != 0) {
    return Rejection{
        Rejection::Kind::kShape,
        fmt::format("hidden size {} and intermediate size {} (of this TP shard) must be multiples "
                    "of {}, the block of a scale",
                    problem.hidden_size, problem.intermediate_size, block)};
  }
  const Parallel& parallel = query.parallel;
  const bool ranks_fit = parallel.tp_rank >= 0 && parallel.tp_rank < parallel.tp_size &&
                         parallel.ep_rank >= 0 && parallel.ep_rank < parallel.ep_size;
  if (!ranks_fit || problem.num_local_experts > problem.num_experts) {
    return Rejection{
        Rejection::Kind::kParallel,
        fmt::format("TP rank {} of {}, EP rank {} of {} with {} of {} experts make no sense",
                    parallel.tp_rank, parallel.tp_size, parallel.ep_rank, parallel.ep_size,
                    problem.num_local_experts, problem.num_experts)};
  }
  return std::nullopt;
}

Support require_activation(const ExpertsQuery& query, bool late_clamp) {
  const ActivationParams& activation = query.problem.activation;
  const bool clamped = activation.kind == ActivationKind::kSilu ||
                       activation.kind == ActivationKind::kSwigluOai ||
                       activation.kind == ActivationKind::kSiluLateClamp;
  if (activation.kind == ActivationKind::kSiluLateClamp && !late_clamp) {
    return Rejection{Rejection::Kind::kActivation,
                     fmt::format("it does not compute {}: it clamps before the activation, not "
                                 "after it",
                                 to_string(activation))};
  }
  if (activation.has_limit() && !clamped) {
    return Rejection{Rejection::Kind::kActivation,
                     fmt::format("it computes {} without the limit of {} that the checkpoint asks "
                                 "for",
                                 to_string(activation), activation.limit)};
  }
  return std::nullopt;
}

void require_host_weights(const MoeLayerWeights& weights, std::string_view backend) {
  if (!weights.on_device) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("{} runs on the CPU and cannot read weights in GPU memory", backend));
}

}  // namespace moe4
