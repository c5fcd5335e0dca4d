// Picks the table of kernels.
#include "ops/cpu/kernels.h"

namespace moe4 {

extern const OpKernels kOpKernels_portable;
#if defined(__x86_64__)
extern const OpKernels kOpKernels_avx2;
extern const OpKernels kOpKernels_avx512;
#elif defined(__aarch64__)
extern const OpKernels kOpKernels_neon;
#endif

const OpKernels& op_kernels(CpuIsa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case CpuIsa::kAvx512:
      return kOpKernels_avx512;
    case CpuIsa::kAvx2:
      return kOpKernels_avx2;
#elif defined(__aarch64__)
    case CpuIsa::kNeon:
      return kOpKernels_neon;
#endif
    default:
      return kOpKernels_portable;
  }
}

}  // namespace moe4
