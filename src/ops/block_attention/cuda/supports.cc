// BlockAttention on NVIDIA GPUs: what it takes, which is what PagedAttention does.
#include "ops/block_attention/cuda/with_blocks.h"
#include "ops/cuda/implementation.h"

namespace moe4 {

const Implementation<PagedAttention>& cuda_paged_attention();

namespace {

Support accepts(const BlockAttention::Problem& problem) {
  return cuda_paged_attention().supports(with_blocks(problem), Device::cuda_sm(80));
}

}  // namespace

const Implementation<BlockAttention>& cuda_block_attention() {
  static const CudaImplementation<BlockAttention> implementation(accepts);
  return implementation;
}

}  // namespace moe4
