// Programs built without sm_90a have no wgmma.
#include "base/error.h"
#include "ops/linear/cuda/even.h"
#include "ops/linear/cuda/kernels.h"

namespace moe4::cuda {

bool has_wgmma_linears() { return false; }
void allow_wgmma_kernels(int) {}
void order_tokens(const Rows&, const Rows&, bool, cudaStream_t) { MOE4_CHECK(false); }
void allow_even_kernels(int) {}
bool even_linears(const LinearCall&) { return false; }
bool share_linears(const LinearCall&) { return false; }
int allow_share_kernels(int) { return 0; }
void wgmma_linears(const LinearCall&, bool) { MOE4_CHECK(false); }
void allow_wide_kernels(int) {}
bool wide_linears(const LinearCall&, void*) { return false; }
void allow_many_head_kernels(int) {}
bool many_head_linears(const LinearCall&, void*) { return false; }

}  // namespace moe4::cuda
