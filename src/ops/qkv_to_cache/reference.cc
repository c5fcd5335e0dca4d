// QkvToCache in float64.
#include <algorithm>
#include <cmath>

#include "numerics/f16.h"
#include "ops/cpu/implementation.h"
#include "ops/qkv_to_cache/qkv_to_cache.h"

namespace moe4 {
namespace {

class ReferenceQkvToCache final : public Prepared<QkvToCache> {
 public:
  ReferenceQkvToCache(const QkvToCache::Problem& problem, const QkvToCache::Weights& weights,
                      const OpOptions&)
      : Prepared(problem) {
    if (!problem.norm) return;
    q_norm_ = norm_weights(*problem.norm, weights.q_norm, problem.head_dim);
    k_norm_ = norm_weights(*problem.norm, weights.k_norm, problem.head_dim);
  }

  size_t workspace_size(const QkvToCache::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>((q_norm_.size() + k_norm_.size()) * sizeof(float));
  }

  void run(const QkvToCache::Args& args, std::span<std::byte>, const Stream&) const override {
    const QkvToCache::Problem& p = problem();
    const int64_t q_stride = p.head_dim * (p.output_gate ? 2 : 1);
    for (int64_t t = 0; t < args.queries.rows; ++t) {
      for (int64_t h = 0; h < p.num_heads; ++h) {
        const std::vector<double> query =
            turned(args.q.row(t) + h * q_stride, q_norm_, args.angles, t);
        for (int64_t d = 0; d < p.head_dim; ++d) {
          args.queries.row(t)[h * p.head_dim + d] = static_cast<float>(query[d]);
        }
      }
      if (args.slots[t] < 0) continue;
      for (int64_t h = 0; h < p.num_kv_heads; ++h) {
        const std::vector<double> key =
            turned(args.k.row(t) + h * p.head_dim, k_norm_, args.angles, t);
        const float* value = args.v.row(t) + h * p.head_dim;
        put(args, args.slots[t], h, std::vector<float>(key.begin(), key.end()));
        put(args, args.slots[t], p.num_kv_heads + h, {value, value + p.head_dim});
      }
    }
  }

 private:
  std::vector<double> turned(const float* head, const std::vector<float>& weight,
                             const Rows& angles, int64_t token) const {
    const int64_t dim = problem().head_dim, half = problem().rotary_dim / 2;
    std::vector<double> x(head, head + dim);
    if (problem().norm) {
      double squares = 0;
      for (const double v : x) squares += v * v;
      const double mean = squares / static_cast<double>(dim);
      const double factor = 1.0 / std::sqrt(mean + static_cast<double>(problem().norm->eps));
      for (int64_t d = 0; d < dim; ++d) x[d] *= factor * weight[d];
    }
    for (int64_t i = 0; i < half; ++i) {
      const double a = x[i], b = x[i + half];
      const double cos = angles.row(token)[i], sin = angles.row(token)[half + i];
      x[i] = a * cos - b * sin;
      x[i + half] = b * cos + a * sin;
    }
    return x;
  }

  // The row of a token in array `array` of its page: keys of all heads, then values.
  void put(const QkvToCache::Args& args, int64_t slot, int64_t array,
           const std::vector<float>& head) const {
    std::byte* page = args.cache.data + slot / kPageTokens * args.cache.unit_bytes;
    const int64_t first = (array * kPageTokens + slot % kPageTokens) * problem().head_dim;
    const bool infinite =
        std::any_of(head.begin(), head.end(), [](float x) { return std::isinf(x); });
    for (int64_t d = 0; d < problem().head_dim; ++d) {
      if (problem().cache_dtype == DType::kF16) {
        reinterpret_cast<F16*>(page)[first + d] = to_f16(infinite ? NAN : head[d]);
      } else {
        reinterpret_cast<float*>(page)[first + d] = head[d];
      }
    }
  }

  std::vector<float> q_norm_, k_norm_;
};

}  // namespace

const Implementation<QkvToCache>& reference_qkv_to_cache() {
  static const CpuImplementation<QkvToCache, ReferenceQkvToCache> implementation("reference",
                                                                                 only_for_tests);
  return implementation;
}

}  // namespace moe4
