// The ops' inner loops for AVX-512.
#define MOE4_ISA ops_avx512
#include "ops/cpu/simd_avx512.h"
// The templates need the vector type above.
#include "ops/cpu/kernels_table_inl.h"

namespace moe4 {

extern const OpKernels kOpKernels_avx512;
const OpKernels kOpKernels_avx512 = ops_avx512::kTable;

}  // namespace moe4
