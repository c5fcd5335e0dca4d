// Choice of the kernel table.
#include "panels/kernels.h"

#include "base/error.h"

namespace moe4::cpu {

const Kernels& kernels_for(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return portable_kernels();
#if defined(__x86_64__)
    case CpuIsa::kAvx2:
      return avx2_kernels();
    case CpuIsa::kAvx512:
      return avx512vnni_kernels();
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
