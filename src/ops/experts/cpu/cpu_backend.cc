// What the cpu backend takes, and the way to its prepared layer.
#include "ops/experts/cpu/cpu_backend.h"

#include "moe/support_checks.h"
#include "ops/experts/cpu/cpu_experts.h"
#include "panels/kernels.h"

namespace moe4 {

Support CpuBackend::supports(const ExpertsQuery& query) const {
  if (!query.device.is_cpu()) {
    return Rejection{Rejection::Kind::kDevice,
                     "it runs on the CPU only, not on " + to_string(query.device)};
  }
  if (Support no = require_activation(query, /*late_clamp=*/true)) return no;
  const MoeProblem& p = query.problem;
  const bool fp4 = query.precision == ActivationPrecision::kFp4 ||
                   query.precision == ActivationPrecision::kFp4Static;
  if (fp4 && !query.scheme.is_nvfp4()) {
    return Rejection{Rejection::Kind::kPrecision,
                     "it quantises activations to FP4 for NVFP4 weights only"};
  }
  if (query.precision == ActivationPrecision::kFp8 &&
      !(query.scheme.is_fp8() && query.scheme.activation)) {
    return Rejection{Rejection::Kind::kPrecision, "the layer has no FP8 activation key"};
  }
  const int block = fp4_block(query.scheme.weight.format);
  if (query.scheme.is_fp4() && (p.hidden_size % block != 0 || p.intermediate_size % block != 0)) {
    return Rejection{Rejection::Kind::kShape,
                     "hidden size " + std::to_string(p.hidden_size) + " and intermediate size " +
                         std::to_string(p.intermediate_size) + " must be multiples of " +
                         std::to_string(block) + ", the block of " +
                         (query.scheme.is_mxfp4() ? "MXFP4" : "NVFP4")};
  }
  return std::nullopt;
}

Support CpuBackend::runnable(const Device& device) const { return supports({.device = device}); }

std::unique_ptr<PreparedExperts> CpuBackend::prepare(const MoeLayerWeights& weights,
                                                     const PrepareOptions& options) const {
  require_host_weights(weights, name());
  return cpu::prepare_experts(weights, options, cpu::kernels_for(isa_ ? *isa_ : cpu_isa()));
}

}  // namespace moe4
