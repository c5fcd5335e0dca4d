// Descriptions of matrices for the copy engine of SM90 (device/cuda/ptx/tensor_copy.cuh).
#pragma once

#include <cuda.h>

#include <cstdint>

namespace moe4::cuda {

/// BF16 [rows, columns] in device memory, columns a multiple of 64, rows `stride` elements apart (a
/// multiple of 8) from a multiple of 16 bytes on, as [columns / 64, rows, 64]: boxes of box_chunks
/// x box_rows x 64, in shared memory in the 128-byte swizzle. Throws Error(kUnavailable) where the
/// driver knows no such thing.
CUtensorMap swizzled_rows_map(const void* data, int64_t rows, int64_t columns, int64_t stride,
                              int box_rows, int box_chunks);

}  // namespace moe4::cuda
