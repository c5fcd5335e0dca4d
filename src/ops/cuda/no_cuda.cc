// Programs built without CUDA plan for GPUs but cannot prepare anything for one.
#include "base/error.h"
#include "ops/attention/paged_attention.h"
#include "ops/block_attention/block_attention.h"
#include "ops/choose_blocks/choose_blocks.h"
#include "ops/choose_keys/choose_keys.h"
#include "ops/compress_to_cache/compress_to_cache.h"
#include "ops/compressed_attention/compressed_attention.h"
#include "ops/cuda/implementation.h"
#include "ops/delta_net/delta_net.h"
#include "ops/embed/embed.h"
#include "ops/gated_rows/gated_rows.h"
#include "ops/index_to_cache/index_to_cache.h"
#include "ops/latent_attention/latent_attention.h"
#include "ops/latent_to_cache/latent_to_cache.h"
#include "ops/linear/linear_group.h"
#include "ops/norm/add_norm.h"
#include "ops/norm_route/norm_route.h"
#include "ops/qkv_to_cache/qkv_to_cache.h"
#include "ops/rotary/rotary_angles.h"
#include "ops/route/route.h"
#include "ops/sample/sample.h"
#include "ops/ssm/ssm.h"
#include "ops/streams/streams.h"

namespace moe4 {

template <class Op>
std::unique_ptr<Prepared<Op>> prepare_on_cuda(const typename Op::Problem&,
                                              const typename Op::Weights&, const OpOptions&) {
  throw Error(ErrorCode::kUnavailable,
              std::string(Op::kName) + ": this program was built without CUDA");
}

// NOLINTBEGIN(bugprone-macro-parentheses): a type
#define MOE4_NO_CUDA(Op)                                                         \
  template std::unique_ptr<Prepared<Op>> prepare_on_cuda<Op>(const Op::Problem&, \
                                                             const Op::Weights&, const OpOptions&)
// NOLINTEND(bugprone-macro-parentheses)
MOE4_NO_CUDA(AddNorm);
MOE4_NO_CUDA(AddScaled);
MOE4_NO_CUDA(AddToStreams);
MOE4_NO_CUDA(BlockAttention);
MOE4_NO_CUDA(ChooseBlocks);
MOE4_NO_CUDA(ChooseKeys);
MOE4_NO_CUDA(CompressToCache);
MOE4_NO_CUDA(CompressedAttention);
MOE4_NO_CUDA(DeltaNet);
MOE4_NO_CUDA(Embed);
MOE4_NO_CUDA(FillStreams);
MOE4_NO_CUDA(GatedRows);
MOE4_NO_CUDA(IndexToCache);
MOE4_NO_CUDA(LatentAttention);
MOE4_NO_CUDA(LatentToCache);
MOE4_NO_CUDA(LinearGroup);
MOE4_NO_CUDA(MixStreams);
MOE4_NO_CUDA(NormRoute);
MOE4_NO_CUDA(PagedAttention);
MOE4_NO_CUDA(QkvToCache);
MOE4_NO_CUDA(RotaryAngles);
MOE4_NO_CUDA(Route);
MOE4_NO_CUDA(Sample);
MOE4_NO_CUDA(SoftCap);
MOE4_NO_CUDA(Ssm);
#undef MOE4_NO_CUDA

}  // namespace moe4
