// LatentToCache in float64.
#include <algorithm>
#include <cmath>

#include "numerics/f16.h"
#include "ops/cpu/implementation.h"
#include "ops/latent_to_cache/latent_to_cache.h"

namespace moe4 {
namespace {

std::vector<double> normalised(const float* x, const std::vector<float>& weight, float eps) {
  double squares = 0;
  for (size_t i = 0; i < weight.size(); ++i) squares += static_cast<double>(x[i]) * x[i];
  const double mean = squares / static_cast<double>(weight.size());
  std::vector<double> y(weight.size());
  for (size_t i = 0; i < weight.size(); ++i) {
    y[i] = x[i] / std::sqrt(mean + static_cast<double>(eps)) * weight[i];
  }
  return y;
}

class ReferenceLatentToCache final : public Prepared<LatentToCache> {
 public:
  ReferenceLatentToCache(const LatentToCache::Problem& problem,
                         const LatentToCache::Weights& weights, const OpOptions&)
      : Prepared(problem),
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

  void run(const LatentToCache::Args& args, std::span<std::byte>, const Stream&) const override {
    const LatentToCache::Problem& p = problem();
    for (int64_t t = 0; t < args.kv.rows; ++t) {
      if (p.q_latent_dim > 0) {
        const auto q = normalised(args.q_latent.row(t), q_norm_, p.norm.eps);
        std::copy(q.begin(), q.end(), args.q_latent.row(t));
      }
      if (args.slots[t] < 0) continue;
      const float* angles = args.angles.row(t);
      const float* rope = args.kv.row(t) + p.latent_dim;
      std::vector<double> row = normalised(args.kv.row(t), kv_norm_, p.norm.eps);
      for (int64_t i = 0; i < p.rope_dim / 2; ++i) {
        const double a = rope[2 * i], b = rope[2 * i + 1];
        const double cos = angles[i], sin = angles[p.rope_dim / 2 + i];
        row.push_back(a * cos - b * sin);
        row.push_back(a * sin + b * cos);
      }
      put(args, args.slots[t], {row.begin(), row.end()});
    }
  }

 private:
  void put(const LatentToCache::Args& args, int64_t slot, const std::vector<float>& row) const {
    std::byte* page = args.cache.data + slot / kPageTokens * args.cache.unit_bytes;
    const auto width = static_cast<int64_t>(row.size());
    const bool infinite =
        std::any_of(row.begin(), row.end(), [](float x) { return std::isinf(x); });
    for (int64_t d = 0; d < width; ++d) {
      const int64_t i = slot % kPageTokens * width + d;
      if (problem().cache_dtype == DType::kF16) {
        reinterpret_cast<F16*>(page)[i] = to_f16(infinite ? NAN : row[d]);
      } else {
        reinterpret_cast<float*>(page)[i] = row[d];
      }
    }
  }

  std::vector<float> q_norm_, kv_norm_;
};

}  // namespace

const Implementation<LatentToCache>& reference_latent_to_cache() {
  static const CpuImplementation<LatentToCache, ReferenceLatentToCache> implementation(
      "reference", only_for_tests);
  return implementation;
}

}  // namespace moe4
