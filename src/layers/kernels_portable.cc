// The layers' inner loops for the baseline instruction set.
#define MOE4_ISA layers_portable
#include "layers/simd_portable.h"
// The templates need the vector type above.
#include "layers/kernels_table_inl.h"

namespace moe4 {

extern const LayerKernels kLayerKernels_portable;
const LayerKernels kLayerKernels_portable = layers_portable::kTable;

}  // namespace moe4
