// A thread an id.
#include "base/checked_math.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/sample/take_chosen.h"

namespace moe4 {
namespace {

__global__ void take_chosen_kernel(int32_t* ids, int n, const int32_t* chosen) {
  cuda::wait_for_previous_kernel();
  cuda::launch_dependents();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n && ids[i] <= chosen_in_row(0)) ids[i] = chosen[-2 - ids[i]];
}

}  // namespace

void take_chosen(int32_t* ids, int64_t n, const int32_t* chosen, const Stream& stream) {
  if (n == 0) return;
  constexpr int kThreads = 256;
  cuda::launch(take_chosen_kernel,
               {.grid = dim3(static_cast<unsigned>(ceil_div(n, int64_t{kThreads}))),
                .block = dim3(kThreads),
                .stream = static_cast<cudaStream_t>(stream.handle),
                .dependent = stream.device.sm >= 90},
               ids, static_cast<int>(n), chosen);
}

}  // namespace moe4
