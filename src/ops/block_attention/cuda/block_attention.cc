// BlockAttention on NVIDIA GPUs: PagedAttention with lists of blocks. Tokens of prompts that see
// all keys are done as those of attention over all are.
#include "ops/block_attention/cuda/with_blocks.h"
#include "ops/cuda/implementation.h"

namespace moe4 {
namespace {

class CudaBlockAttention final : public Prepared<BlockAttention> {
 public:
  CudaBlockAttention(const BlockAttention::Problem& problem, const BlockAttention::Weights&,
                     const OpOptions& options)
      : Prepared(problem), attention_(prepare<PagedAttention>(with_blocks(problem), {}, options)) {}

  BatchInvariance batch_invariant() const override { return attention_->batch_invariant(); }
  int64_t weight_bytes() const override { return 0; }
  size_t workspace_size(const BlockAttention::Args& bound) const override {
    return attention_->workspace_size({.batch = bound.batch});
  }
  void run(const BlockAttention::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    attention_->run({.queries = args.queries,
                     .batch = args.batch,
                     .cache = args.cache,
                     .chosen = args.chosen,
                     .y = args.y},
                    workspace, stream);
  }

 private:
  std::unique_ptr<Prepared<PagedAttention>> attention_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<BlockAttention>> prepare_on_cuda<BlockAttention>(
    const BlockAttention::Problem& problem, const BlockAttention::Weights& weights,
    const OpOptions& options) {
  return std::make_unique<CudaBlockAttention>(problem, weights, options);
}

}  // namespace moe4
