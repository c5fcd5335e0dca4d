// The hopper backend of a program without its CUDA kernels: it can be planned for, and says why it
// cannot run.
#include "base/error.h"
#include "ops/experts/hopper/hopper_backend.h"
#include "ops/experts/hopper/hopper_supports.h"

namespace moe4 {

Support HopperBackend::supports(const ExpertsQuery& query) const { return hopper_supports(query); }

BatchBehavior HopperBackend::batch_behavior(const ExpertsQuery& query) const {
  return hopper_batch_behavior(query);
}

std::span<const TuningOption> HopperBackend::tuning_options() const { return kHopperTuning; }

Support HopperBackend::runnable(const Device&) const {
  return Rejection{Rejection::Kind::kBuild, "this program was built without its CUDA kernels"};
}

std::unique_ptr<PreparedExperts> HopperBackend::prepare(const MoeLayerWeights&,
                                                        const PrepareOptions&) const {
  throw Error(ErrorCode::kUnavailable,
              "MoE backend 'hopper' cannot run since this program was built without its CUDA "
              "kernels; use --device cpu (cpu, reference)");
}

}  // namespace moe4
