// The ops' inner loops for AArch64.
#define MOE4_ISA ops_neon
#include "ops/cpu/simd_neon.h"
// The templates need the vector type above.
#include "ops/cpu/kernels_table_inl.h"

namespace moe4 {

extern const OpKernels kOpKernels_neon;
const OpKernels kOpKernels_neon = ops_neon::kTable;

}  // namespace moe4
