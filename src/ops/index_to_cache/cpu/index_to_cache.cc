// IndexToCache on the CPU: a token at a time.
#include "ops/index_to_cache/index_to_cache.h"

#include <cmath>

#include "ops/cpu/cache_row.h"
#include "ops/cpu/implementation.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/rotate_pairs.h"

namespace moe4 {
namespace {

class CpuIndexToCache final : public Prepared<IndexToCache> {
 public:
  CpuIndexToCache(const IndexToCache::Problem& problem, const IndexToCache::Weights& weights,
                  const OpOptions& options)
      : Prepared(problem),
        kernels_(op_kernels(options.isa)),
        norm_(float_vector(weights.norm, problem.dim)),
        bias_(float_vector(weights.norm_bias, problem.dim)) {}

  size_t workspace_size(const IndexToCache::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>((norm_.size() + bias_.size()) * sizeof(float));
  }

  void run(const IndexToCache::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    const int64_t bytes = 4 * problem().dim * int64_t{sizeof(float)};
    stream.threads->parallel_for(args.k.rows, parallel_grain(args.k.rows, bytes),
                                 [&](int64_t begin, int64_t end, int) {
                                   for (int64_t t = begin; t < end; ++t) run_token(args, t);
                                 });
  }

 private:
  void run_token(const IndexToCache::Args& args, int64_t t) const {
    const IndexToCache::Problem& p = problem();
    const int64_t slot = args.slots[t];
    if (slot < 0) return;
    float* key = args.k.row(t);
    normalise(key);
    rotate(p.rotates_pairs, args.angles.row(t), p.rotary_dim, key);
    std::byte* page = args.cache.data + slot / kPageTokens * args.cache.unit_bytes;
    store_cache_row(kernels_, key, p.dim, p.cache_dtype,
                    page + slot % kPageTokens * p.dim * size_of(p.cache_dtype));
  }

  void normalise(float* key) const {
    const int64_t dim = problem().dim;
    double sum = 0, squares = 0;  // so few that float64 costs nothing
    for (int64_t d = 0; d < dim; ++d) sum += static_cast<double>(key[d]);
    const auto mean = static_cast<float>(sum / static_cast<double>(dim));
    for (int64_t d = 0; d < dim; ++d) {
      key[d] -= mean;
      squares += static_cast<double>(key[d]) * static_cast<double>(key[d]);
    }
    const double variance = squares / static_cast<double>(dim);
    const auto factor =
        static_cast<float>(1.0 / std::sqrt(variance + static_cast<double>(problem().eps)));
    for (int64_t d = 0; d < dim; ++d) key[d] = key[d] * factor * norm_[d] + bias_[d];
  }

  const OpKernels& kernels_;
  std::vector<float> norm_, bias_;
};

Support accepts(const IndexToCache::Problem& problem) {
  if (Support no = require_plain_cache(problem.cache_dtype)) return no;
  return require_multiple_of_16("index_head_dim", problem.dim);
}

}  // namespace

const Implementation<IndexToCache>& cpu_index_to_cache() {
  static const CpuImplementation<IndexToCache, CpuIndexToCache> implementation("cpu", accepts);
  return implementation;
}

}  // namespace moe4
