// Programs built without CUDA have no layers on a GPU.
#include "base/error.h"
#include "ops/experts/offload/cpu_experts_of_gpu.h"
#include "ops/sample/take_chosen.h"

namespace moe4 {
namespace {

[[noreturn]] void throw_no_cuda() {
  throw Error(ErrorCode::kUnavailable, "this program was built without CUDA");
}

}  // namespace

std::unique_ptr<RoutedExperts> cpu_experts_of_gpu(std::unique_ptr<PreparedExperts>,
                                                  const MoeProblem&, const Device&) {
  throw_no_cuda();
}
void take_chosen(int32_t*, int64_t, const int32_t*, const Stream&) { throw_no_cuda(); }

}  // namespace moe4
