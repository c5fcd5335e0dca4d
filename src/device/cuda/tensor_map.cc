// Tensor maps, encoded by the driver.
#include "device/cuda/tensor_map.h"

#include <cudaTypedefs.h>

#include "base/error.h"
#include "device/cuda/cuda_check.h"

namespace moe4::cuda {
namespace {

PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  MOE4_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                   cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess) {
    throw Error(ErrorCode::kUnavailable, "the CUDA driver has no cuTensorMapEncodeTiled");
  }
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

}  // namespace

CUtensorMap swizzled_rows_map(const void* data, int64_t rows, int64_t columns, int64_t stride,
                              int box_rows, int box_chunks) {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = encoder();
  constexpr cuuint32_t kChunk = 64;
  const cuuint64_t sizes[3] = {kChunk, static_cast<cuuint64_t>(rows),
                               static_cast<cuuint64_t>(columns) / kChunk};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(stride) * 2, kChunk * 2};  // bytes
  const cuuint32_t box[3] = {kChunk, static_cast<cuuint32_t>(box_rows),
                             static_cast<cuuint32_t>(box_chunks)};
  const cuuint32_t steps[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(data), sizes, strides,
             box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  MOE4_CHECK(result == CUDA_SUCCESS);
  return map;
}

}  // namespace moe4::cuda
