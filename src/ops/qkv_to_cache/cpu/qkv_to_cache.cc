// QkvToCache on the CPU: a token at a time, heads in order.
#include "ops/qkv_to_cache/qkv_to_cache.h"

#include "ops/cpu/cache_row.h"
#include "ops/cpu/implementation.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/parallel.h"

namespace moe4 {
namespace {

void rotate(const float* angles, int64_t half, float* head) {
  for (int64_t i = 0; i < half; ++i) {
    const float cos = angles[i], sin = angles[half + i];
    const float a = head[i], b = head[i + half];
    head[i] = a * cos - b * sin;
    head[i + half] = b * cos + a * sin;
  }
}

class CpuQkvToCache final : public Prepared<QkvToCache> {
 public:
  CpuQkvToCache(const QkvToCache::Problem& problem, const QkvToCache::Weights& weights,
                const OpOptions& options)
      : Prepared(problem), kernels_(op_kernels(options.isa)) {
    if (!problem.norm) return;
    q_norm_ = norm_weights(*problem.norm, weights.q_norm, problem.head_dim);
    k_norm_ = norm_weights(*problem.norm, weights.k_norm, problem.head_dim);
  }

  size_t workspace_size(const QkvToCache::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>((q_norm_.size() + k_norm_.size()) * sizeof(float));
  }

  void run(const QkvToCache::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    const int64_t tokens = args.queries.rows, heads = problem().num_heads + problem().num_kv_heads;
    const int64_t bytes = 4 * heads * problem().head_dim * int64_t{sizeof(float)};
    stream.threads->parallel_for(tokens, parallel_grain(tokens, bytes),
                                 [&](int64_t begin, int64_t end, int) {
                                   for (int64_t t = begin; t < end; ++t) run_token(args, t);
                                 });
  }

 private:
  void run_token(const QkvToCache::Args& args, int64_t t) const {
    const int64_t dim = problem().head_dim;
    const int64_t q_stride = dim * (problem().output_gate ? 2 : 1);
    for (int64_t h = 0; h < problem().num_heads; ++h) {
      float* query = args.queries.row(t) + h * dim;
      turn(args.q.row(t) + h * q_stride, q_norm_, args.angles, t, query);
    }
    const int64_t slot = args.slots[t];
    if (slot < 0) return;
    const int64_t row_bytes = dim * size_of(problem().cache_dtype);
    std::byte* page = args.cache.data + slot / kPageTokens * args.cache.unit_bytes +
                      slot % kPageTokens * row_bytes;
    const int64_t values = problem().num_kv_heads * kPageTokens * row_bytes;
    for (int64_t h = 0; h < problem().num_kv_heads; ++h) {
      float* key = args.k.row(t) + h * dim;
      turn(key, k_norm_, args.angles, t, key);
      store(key, page + h * kPageTokens * row_bytes);
      store(args.v.row(t) + h * dim, page + values + h * kPageTokens * row_bytes);
    }
  }

  // `out` may be `head`.
  void turn(const float* head, const std::vector<float>& norm, const Rows& angles, int64_t token,
            float* out) const {
    if (problem().norm) {
      kernels_.rms_norm(head, norm.data(), problem().norm->eps, problem().head_dim, out);
    } else if (out != head) {
      std::copy_n(head, problem().head_dim, out);
    }
    const int64_t half = problem().rotary_dim / 2;
    if (half > 0) rotate(angles.row(token), half, out);
  }

  void store(const float* head, std::byte* to) const {
    store_cache_row(kernels_, head, problem().head_dim, problem().cache_dtype, to);
  }

  const OpKernels& kernels_;
  std::vector<float> q_norm_, k_norm_;
};

Support accepts(const QkvToCache::Problem& problem) {
  return require_multiple_of_16("head_dim", problem.head_dim);
}

}  // namespace

const Implementation<QkvToCache>& cpu_qkv_to_cache() {
  static const CpuImplementation<QkvToCache, CpuQkvToCache> implementation("cpu", accepts);
  return implementation;
}

}  // namespace moe4
