// Picks the table of kernels.
#include "layers/kernels.h"

namespace moe4 {

extern const LayerKernels kLayerKernels_portable;
#if defined(__x86_64__)
extern const LayerKernels kLayerKernels_avx2;
extern const LayerKernels kLayerKernels_avx512;
#elif defined(__aarch64__)
extern const LayerKernels kLayerKernels_neon;
#endif

const LayerKernels& layer_kernels(CpuIsa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case CpuIsa::kAvx512:
      return kLayerKernels_avx512;
    case CpuIsa::kAvx2:
      return kLayerKernels_avx2;
#elif defined(__aarch64__)
    case CpuIsa::kNeon:
      return kLayerKernels_neon;
#endif
    default:
      return kLayerKernels_portable;
  }
}

}  // namespace moe4
