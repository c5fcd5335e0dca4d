// The ops' inner loops for the baseline instruction set.
#define MOE4_ISA ops_portable
#include "ops/cpu/simd_portable.h"
// The templates need the vector type above.
#include "ops/cpu/kernels_table_inl.h"

namespace moe4 {

extern const OpKernels kOpKernels_portable;
const OpKernels kOpKernels_portable = ops_portable::kTable;

}  // namespace moe4
