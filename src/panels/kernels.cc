// Choice of the kernel table.
#include "panels/kernels.h"

#include "base/error.h"

namespace moe4::cpu {

namespace {

#if defined(__x86_64__)
Kernels best_avx512_kernels() {
  Kernels kernels = avx512vnni_kernels();
  if (avx512_features().vbmi) {
    kernels.dense_fp8 = avx512vbmi_dense_fp8;
    kernels.dense_fp8_groups = avx512vbmi_dense_fp8_groups;
  }
  return kernels;
}
#elif defined(__aarch64__)
Kernels best_neon_kernels() {
  Kernels kernels = neon_dotprod_kernels();
  if (neon_features().i8mm) kernels.nvfp4_fp4 = neon_i8mm_nvfp4_fp4;
  return kernels;
}
#endif

}  // namespace

const Kernels& kernels_for(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return portable_kernels();
#if defined(__x86_64__)
    case CpuIsa::kAvx2:
      return avx2_kernels();
    case CpuIsa::kAvx512: {
      static const Kernels kernels = best_avx512_kernels();
      return kernels;
    }
#elif defined(__aarch64__)
    case CpuIsa::kNeon: {
      static const Kernels kernels = best_neon_kernels();
      return kernels;
    }
#endif
    default:
      throw Error(ErrorCode::kUnavailable,
                  "this program has no " + std::string(to_string(isa)) + " kernels");
  }
}

}  // namespace moe4::cpu
