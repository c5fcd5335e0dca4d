// The layers' inner loops for AVX-512.
#define MOE4_ISA layers_avx512
#include "layers/simd_avx512.h"
// The templates need the vector type above.
#include "layers/kernels_table_inl.h"

namespace moe4 {

extern const LayerKernels kLayerKernels_avx512;
const LayerKernels kLayerKernels_avx512 = layers_avx512::kTable;

}  // namespace moe4
