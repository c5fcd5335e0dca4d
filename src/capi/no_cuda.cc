// A library without CUDA has no GPU to offer.
#include "base/error.h"
#include "capi/gpu.h"

namespace moe4::capi {

Device gpu(int /*ordinal*/) {
  throw Error(ErrorCode::kUnavailable, "this library was built without CUDA; use device -1");
}

std::string gpu_architectures() { return ""; }

// gpu() has refused whoever comes here.
void download_rows(const void*, size_t, size_t, size_t, void*) { MOE4_CHECK(false); }
void convert_on_gpu(const void*, DType, int64_t, void*, DType, void*) { MOE4_CHECK(false); }
void local_ids_on_gpu(const void*, bool, int64_t, const int32_t*, int32_t, int32_t, int32_t*,
                      void*) {
  MOE4_CHECK(false);
}

}  // namespace moe4::capi
