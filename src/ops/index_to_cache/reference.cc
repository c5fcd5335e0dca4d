// IndexToCache in float64.
#include <cmath>

#include "numerics/f16.h"
#include "ops/cpu/implementation.h"
#include "ops/index_to_cache/index_to_cache.h"

namespace moe4 {
namespace {

class ReferenceIndexToCache final : public Prepared<IndexToCache> {
 public:
  ReferenceIndexToCache(const IndexToCache::Problem& problem, const IndexToCache::Weights& weights,
                        const OpOptions&)
      : Prepared(problem),
        norm_(float_vector(weights.norm, problem.dim)),
        bias_(float_vector(weights.norm_bias, problem.dim)) {}

  size_t workspace_size(const IndexToCache::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>((norm_.size() + bias_.size()) * sizeof(float));
  }

  void run(const IndexToCache::Args& args, std::span<std::byte>, const Stream&) const override {
    const int64_t dim = problem().dim;
    for (int64_t t = 0; t < args.k.rows; ++t) {
      if (args.slots[t] < 0) continue;
      std::vector<double> key(args.k.row(t), args.k.row(t) + dim);
      double mean = 0, variance = 0;
      for (const double x : key) mean += x / static_cast<double>(dim);
      for (const double x : key) variance += (x - mean) * (x - mean) / static_cast<double>(dim);
      const double factor = 1.0 / std::sqrt(variance + static_cast<double>(problem().eps));
      for (int64_t d = 0; d < dim; ++d) key[d] = (key[d] - mean) * factor * norm_[d] + bias_[d];
      rotate(key, args.angles.row(t));
      store(args, args.slots[t], key);
    }
  }

 private:
  void rotate(std::vector<double>& key, const float* angles) const {
    const int64_t half = problem().rotary_dim / 2;
    for (int64_t i = 0; i < half; ++i) {
      double& first = problem().rotates_pairs ? key[2 * i] : key[i];
      double& second = problem().rotates_pairs ? key[2 * i + 1] : key[i + half];
      const double a = first, b = second, cos = angles[i], sin = angles[half + i];
      first = a * cos - b * sin;
      second = b * cos + a * sin;
    }
  }

  void store(const IndexToCache::Args& args, int64_t slot, const std::vector<double>& key) const {
    std::byte* page = args.cache.data + slot / kPageTokens * args.cache.unit_bytes;
    const int64_t first = slot % kPageTokens * problem().dim;
    bool infinite = false;
    for (const double x : key) infinite |= std::isinf(static_cast<float>(x));
    for (int64_t d = 0; d < problem().dim; ++d) {
      const auto x = static_cast<float>(key[d]);
      if (problem().cache_dtype == DType::kF16) {
        reinterpret_cast<F16*>(page)[first + d] = to_f16(infinite ? NAN : x);
      } else {
        reinterpret_cast<float*>(page)[first + d] = x;
      }
    }
  }

  std::vector<float> norm_, bias_;
};

}  // namespace

const Implementation<IndexToCache>& reference_index_to_cache() {
  static const CpuImplementation<IndexToCache, ReferenceIndexToCache> implementation(
      "reference", only_for_tests);
  return implementation;
}

}  // namespace moe4
