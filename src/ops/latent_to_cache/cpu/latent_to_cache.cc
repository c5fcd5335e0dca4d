// LatentToCache on the CPU: a token at a time.
#include "ops/latent_to_cache/latent_to_cache.h"

#include "ops/cpu/cache_row.h"
#include "ops/cpu/implementation.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/rotate_pairs.h"

namespace moe4 {
namespace {

class CpuLatentToCache final : public Prepared<LatentToCache> {
 public:
  CpuLatentToCache(const LatentToCache::Problem& problem, const LatentToCache::Weights& weights,
                   const OpOptions& options)
      : Prepared(problem),
        kernels_(op_kernels(options.isa)),
        kv_norm_(norm_weights(problem.norm, weights.kv_norm, problem.latent_dim)) {
    if (problem.q_latent_dim > 0) {
      q_norm_ = norm_weights(problem.norm, weights.q_norm, problem.q_latent_dim);
    }
  }

  size_t workspace_size(const LatentToCache::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>((q_norm_.size() + kv_norm_.size()) * sizeof(float));
  }

  void run(const LatentToCache::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    const LatentToCache::Problem& p = problem();
    const int64_t bytes = 4 * (p.q_latent_dim + p.latent_dim + p.rope_dim) * int64_t{sizeof(float)};
    stream.threads->parallel_for(args.kv.rows, parallel_grain(args.kv.rows, bytes),
                                 [&](int64_t begin, int64_t end, int) {
                                   for (int64_t t = begin; t < end; ++t) run_token(args, t);
                                 });
  }

 private:
  void run_token(const LatentToCache::Args& args, int64_t t) const {
    const LatentToCache::Problem& p = problem();
    if (p.q_latent_dim > 0) {
      float* q = args.q_latent.row(t);
      kernels_.rms_norm(q, q_norm_.data(), p.norm.eps, p.q_latent_dim, q);
    }
    const int64_t slot = args.slots[t];
    if (slot < 0) return;
    float* row = args.kv.row(t);
    kernels_.rms_norm(row, kv_norm_.data(), p.norm.eps, p.latent_dim, row);
    rotate_pairs(args.angles.row(t), p.rope_dim, row + p.latent_dim);
    const int64_t width = p.latent_dim + p.rope_dim;
    std::byte* page = args.cache.data + slot / kPageTokens * args.cache.unit_bytes;
    store_cache_row(kernels_, row, width, p.cache_dtype,
                    page + slot % kPageTokens * width * size_of(p.cache_dtype));
  }

  const OpKernels& kernels_;
  std::vector<float> q_norm_, kv_norm_;
};

Support accepts(const LatentToCache::Problem& problem) {
  if (problem.q_latent_dim > 0) {
    if (Support no = require_multiple_of_16("q_lora_rank", problem.q_latent_dim)) return no;
  }
  if (Support no = require_multiple_of_16("kv_lora_rank", problem.latent_dim)) return no;
  return require_multiple_of_16("qk_rope_head_dim", problem.rope_dim);
}

}  // namespace

const Implementation<LatentToCache>& cpu_latent_to_cache() {
  static const CpuImplementation<LatentToCache, CpuLatentToCache> implementation("cpu", accepts);
  return implementation;
}

}  // namespace moe4
