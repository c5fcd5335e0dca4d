// QkvToCache on the CPU: a token at a time, heads in order.
#include "ops/qkv_to_cache/qkv_to_cache.h"

#include "ops/cpu/cache_row.h"
#include "ops/cpu/implementation.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/rotate_pairs.h"

namespace moe4 {
namespace {

class CpuQkvToCache final : public Prepared<QkvToCache> {
 public:
  CpuQkvToCache(const QkvToCache::Problem& problem, const QkvToCache::Weights& weights,
                const OpOptions& options)
      : Prepared(problem), kernels_(op_kernels(options.isa)) {
    if (problem.value_norm) v_norm_ = norm_weights(*problem.value_norm, {}, problem.value_dim());
    if (!problem.norm) return;
    NormSpec of_queries = *problem.norm;
    if (problem.plain_queries) of_queries.has_weight = false;
    q_norm_ = norm_weights(of_queries, weights.q_norm, problem.q_norm_width());
    k_norm_ = norm_weights(*problem.norm, weights.k_norm, problem.k_norm_width());
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
      std::copy_n(args.q.row(t) + h * q_stride, dim, args.queries.row(t) + h * dim);
    }
    turn(args.queries.row(t), problem().num_heads, q_norm_, args.angles, t);
    if (!problem().temperature.is_one()) {
      const auto factor = static_cast<float>(problem().temperature.at(args.positions[t]));
      float* queries = args.queries.row(t);
      for (int64_t i = 0; i < problem().num_heads * dim; ++i) queries[i] *= factor;
    }
    const int64_t slot = args.slots[t];
    if (slot < 0) return;
    const int64_t value_dim = problem().value_dim(), place = slot % kPageTokens;
    const int64_t row_bytes = dim * size_of(problem().cache_dtype);
    const int64_t value_bytes = value_dim * size_of(problem().cache_dtype);
    std::byte* page = args.cache.data + slot / kPageTokens * args.cache.unit_bytes;
    std::byte* keys = page + place * row_bytes;
    std::byte* values =
        page + problem().num_kv_heads * kPageTokens * row_bytes + place * value_bytes;
    if (value_dim > 0) make_values(args.k.row(t), args.v.row(t));
    turn(args.k.row(t), problem().num_kv_heads, k_norm_, args.angles, t);
    for (int64_t h = 0; h < problem().num_kv_heads; ++h) {
      store(args.k.row(t) + h * dim, dim, keys + h * kPageTokens * row_bytes);
      if (value_dim == 0) continue;
      store(args.v.row(t) + h * value_dim, value_dim, values + h * kPageTokens * value_bytes);
    }
  }

  // From keys as they came, where those are the values; in place.
  void make_values(const float* keys, float* values) const {
    const int64_t dim = problem().value_dim(), heads = problem().num_kv_heads;
    if (problem().keys_are_values) std::copy_n(keys, heads * dim, values);
    if (!problem().value_norm) return;
    for (float* head = values; head < values + heads * dim; head += dim) {
      kernels_.rms_norm(head, v_norm_.data(), problem().value_norm->eps, dim, head);
    }
  }

  // Heads one after the other, in place.
  void turn(float* heads, int64_t count, const std::vector<float>& norm, const Rows& angles,
            int64_t token) const {
    const int64_t dim = problem().head_dim;
    if (problem().norm) {
      const auto width = static_cast<int64_t>(norm.size());
      for (float* x = heads; x < heads + count * dim; x += width) {
        kernels_.rms_norm(x, norm.data(), problem().norm->eps, width, x);
      }
    }
    const int64_t rotary_dim = problem().rotary_dim;
    if (rotary_dim == 0) return;
    const int64_t first = problem().rotates_end ? dim - rotary_dim : 0;
    for (float* head = heads; head < heads + count * dim; head += dim) {
      rotate(problem().rotates_pairs, angles.row(token), rotary_dim, head + first);
    }
  }

  void store(const float* head, int64_t width, std::byte* to) const {
    store_cache_row(kernels_, head, width, problem().cache_dtype, to);
  }

  const OpKernels& kernels_;
  std::vector<float> q_norm_, k_norm_, v_norm_;
};

Support accepts(const QkvToCache::Problem& problem) {
  if (Support no = require_plain_cache(problem.cache_dtype)) return no;
  if (Support no = require_multiple_of_16("head_dim", problem.head_dim)) return no;
  return problem.keys_alone ? std::nullopt
                            : require_multiple_of_16("value_width", problem.value_dim());
}

}  // namespace

const Implementation<QkvToCache>& cpu_qkv_to_cache() {
  static const CpuImplementation<QkvToCache, CpuQkvToCache> implementation("cpu", accepts);
  return implementation;
}

}  // namespace moe4
