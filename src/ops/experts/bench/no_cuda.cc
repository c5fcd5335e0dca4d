// The GPU benchmark of a program without CUDA says so.
#include "base/error.h"
#include "ops/experts/bench/gpu_moe_bench.h"

namespace moe4 {

GpuMoeBenchReport run_gpu_moe_bench(const GpuMoeBenchOptions&) {
  throw Error(ErrorCode::kUnavailable, "this program was built without CUDA; use --device cpu");
}

}  // namespace moe4
