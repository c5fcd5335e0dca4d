// Route on NVIDIA GPUs: what it takes.
#include <string>

#include "ops/cuda/implementation.h"
#include "ops/route/route.h"

namespace moe4 {
namespace {

// A warp keeps a token's scores in registers, 32 a lane, and its slots one a lane.
constexpr int64_t kMaxExperts = 1024;
constexpr int64_t kMaxSlots = 32;

Support accepts(const RouterConfig& problem) {
  if (problem.num_experts > kMaxExperts || problem.num_slots() > kMaxSlots) {
    return Rejection{Rejection::Kind::kShape, "it routes to 32 of 1024 experts at most, not to " +
                                                  std::to_string(problem.num_slots()) + " of " +
                                                  std::to_string(problem.num_experts)};
  }
  return std::nullopt;
}

}  // namespace

const Implementation<Route>& cuda_route() {
  static const CudaImplementation<Route> implementation(accepts);
  return implementation;
}

}  // namespace moe4
