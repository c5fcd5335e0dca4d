// The layers' inner loops for AVX2 and FMA.
#define MOE4_ISA layers_avx2
#include "layers/simd_avx2.h"
// The templates need the vector type above.
#include "layers/kernels_table_inl.h"

namespace moe4 {

extern const LayerKernels kLayerKernels_avx2;
const LayerKernels kLayerKernels_avx2 = layers_avx2::kTable;

}  // namespace moe4
