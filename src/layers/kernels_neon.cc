// The layers' inner loops for AArch64.
#define MOE4_ISA layers_neon
#include "layers/simd_neon.h"
// The templates need the vector type above.
#include "layers/kernels_table_inl.h"

namespace moe4 {

extern const LayerKernels kLayerKernels_neon;
const LayerKernels kLayerKernels_neon = layers_neon::kTable;

}  // namespace moe4
