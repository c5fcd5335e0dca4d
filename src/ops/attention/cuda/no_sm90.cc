// Programs built without sm_90a do prompts as on other GPUs.
#include "base/error.h"
#include "ops/attention/cuda/params.h"

namespace moe4::cuda {

bool prepare_prompts_sm90(const AttentionShape&) { return false; }
void attend_prompts_sm90(const AttentionShape&, const AttentionParams&, int, int, int,
                         const KernelLaunch&) {
  MOE4_CHECK(false);
}

}  // namespace moe4::cuda
