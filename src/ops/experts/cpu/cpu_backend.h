// The fast experts of the CPU: packed weights, integer kernels chosen for the machine at run time.
#pragma once

#include <optional>

#include "base/cpu_isa.h"
#include "moe/experts.h"

namespace moe4 {

/// Takes every scheme. NVFP4 layers run in integers: FP4 activations exactly, BF16 activations as
/// 15-bit integers with a power-of-two scale per 256 inputs (relative error of a layer below 3e-4).
/// FP8 and unquantised layers run in float32. FP8 and 16-bit floats are decoded exactly.
class CpuBackend final : public ExpertsBackend {
 public:
  CpuBackend() = default;
  /// Forces an instruction set, for tests; it must be one of available_cpu_isas().
  explicit CpuBackend(CpuIsa isa) : isa_(isa) {}

  std::string_view name() const override { return "cpu"; }
  Support supports(const ExpertsQuery& query) const override;
  BatchBehavior batch_behavior(const ExpertsQuery&) const override { return {}; }
  Support runnable(const Device& device) const override;
  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights& weights,
                                           const PrepareOptions& options) const override;

 private:
  std::optional<CpuIsa> isa_;  // empty: the process's choice, cpu_isa()
};

}  // namespace moe4
