// What the C interface does on a GPU itself: finds it, reads small arrays, converts rows and ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/device.h"
#include "base/dtype.h"

namespace moe4::capi {

/// Throws Error(kUnavailable) when there is no such GPU or the library was built without CUDA.
Device gpu(int ordinal);

/// "80;90a", "" without CUDA.
std::string gpu_architectures();

/// Rows of device memory into dense host memory. Waits.
void download_rows(const void* device, size_t row_bytes, size_t stride_bytes, size_t rows,
                   void* host);

/// n values of `from` in `in` (BF16, F16, F32) as `to` in `out`; only enqueues.
void convert_on_gpu(const void* in, DType from, int64_t n, void* out, DType to, void* stream);

/// ids [n], int32 or int64, as local_expert() has them; only enqueues. `expert_map` may be null.
void local_ids_on_gpu(const void* ids, bool is_int64, int64_t n, const int32_t* expert_map,
                      int32_t num_experts, int32_t num_local_experts, int32_t* out, void* stream);

}  // namespace moe4::capi
