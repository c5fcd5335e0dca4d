// The marlin backend of a program without its CUDA kernels: it can be planned for, and says why it
// cannot run.
#include "base/error.h"
#include "ops/experts/marlin/marlin_backend.h"
#include "ops/experts/marlin/marlin_supports.h"

namespace moe4 {

Support MarlinBackend::supports(const ExpertsQuery& query) const { return marlin_supports(query); }

std::span<const TuningOption> MarlinBackend::tuning_options() const { return {&kMarlinFc2, 1}; }

Support MarlinBackend::runnable(const Device&) const {
  return Rejection{Rejection::Kind::kBuild, "this program was built without its CUDA kernels"};
}

std::unique_ptr<PreparedExperts> MarlinBackend::prepare(const MoeLayerWeights&,
                                                        const PrepareOptions&) const {
  throw Error(ErrorCode::kUnavailable,
              "MoE backend 'marlin' cannot run since this program was built without its CUDA "
              "kernels; use --device cpu (cpu, reference)");
}

}  // namespace moe4
