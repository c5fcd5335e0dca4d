// Programs built without sm_90a have no wgmma.
#include "base/error.h"
#include "ops/linear/cuda/kernels.h"

namespace moe4::cuda {

bool has_sm90_prompts() { return false; }
void allow_sm90_prompt_kernels(int) {}
void order_tokens(const Rows&, const Rows&, bool, cudaStream_t) { MOE4_CHECK(false); }
void sm90_prompt_linears(const LinearCall&) { MOE4_CHECK(false); }

}  // namespace moe4::cuda
