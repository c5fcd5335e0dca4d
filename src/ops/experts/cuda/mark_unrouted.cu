// NaN where the router had none to offer.
#include <cuda_bf16.h>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/row_values.cuh"
#include "ops/experts/mark_unrouted.h"

namespace moe4 {
namespace {

using namespace cuda;

template <typename T>
__global__ void mark_unrouted_kernel(const int32_t* topk_ids, int top_k, RowsOf<T> y, int width) {
  wait_for_previous_kernel();
  launch_dependents();
  if (topk_ids[static_cast<int64_t>(blockIdx.x) * top_k] >= 0) return;
  T* row = y.row(blockIdx.x);
  for (int c = threadIdx.x; c < width; c += blockDim.x) row[c] = from_float<T>(NAN);
}

}  // namespace

void mark_unrouted(const int32_t* topk_ids, int64_t top_k, const Rows& y, const Stream& stream) {
  if (y.rows == 0) return;
  with_element(y.format, [&](auto element) {
    launch(mark_unrouted_kernel<decltype(element)>,
           {.grid = dim3(static_cast<unsigned>(y.rows)),
            .block = dim3(128),
            .stream = static_cast<cudaStream_t>(stream.handle),
            .dependent = stream.device.sm >= 90},
           topk_ids, static_cast<int>(top_k), RowsOf<decltype(element)>(y),
           static_cast<int>(y.width));
  });
}

}  // namespace moe4
