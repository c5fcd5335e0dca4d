// The ops' inner loops for AVX2 and FMA.
#define MOE4_ISA ops_avx2
#include "ops/cpu/simd_avx2.h"
// The templates need the vector type above.
#include "ops/cpu/kernels_table_inl.h"

namespace moe4 {

extern const OpKernels kOpKernels_avx2;
const OpKernels kOpKernels_avx2 = ops_avx2::kTable;

}  // namespace moe4
