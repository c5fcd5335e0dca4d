// The b12x backend of a program without its CUDA kernels: it can be planned for, and says why it
// cannot run.
#include "base/error.h"
#include "ops/experts/b12x/b12x_backend.h"
#include "ops/experts/b12x/b12x_supports.h"

namespace moe4 {

Support B12xBackend::supports(const ExpertsQuery& query) const { return b12x_supports(query); }

Support B12xBackend::runnable(const Device&) const {
  return Rejection{Rejection::Kind::kBuild, "this program was built without its CUDA kernels"};
}

std::unique_ptr<PreparedExperts> B12xBackend::prepare(const MoeLayerWeights&,
                                                      const PrepareOptions&) const {
  throw Error(ErrorCode::kUnavailable,
              "MoE backend 'b12x' cannot run since this program was built without its CUDA "
              "kernels; use --device cpu (cpu, reference)");
}

}  // namespace moe4
