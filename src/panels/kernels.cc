// Choice of the kernel table.
#include "panels/kernels.h"

#include "base/error.h"

namespace moe4::cpu {

#if defined(__x86_64__)
namespace {

Kernels best_avx512_kernels() {
  Kernels kernels = avx512vnni_kernels();
  if (avx512_features().vbmi) {
    kernels.dense_fp8 = avx512vbmi_dense_fp8;
    kernels.dense_fp8_groups = avx512vbmi_dense_fp8_groups;
  }
  return kernels;
}

}  // namespace
#endif

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
    case CpuIsa::kNeon:
      return neon_dotprod_kernels();
#endif
    default:
      throw Error(ErrorCode::kUnavailable,
                  "this program has no " + std::string(to_string(isa)) + " kernels");
  }
}

}  // namespace moe4::cpu
