// QkvToCache in float64.
#include <algorithm>
#include <cmath>

#include "numerics/e4m3.h"
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

  void run(const QkvToCache::Args& args, std::span<std::byte>, const Stream&) const override {
    const QkvToCache::Problem& p = problem();
    const int64_t q_stride = p.head_dim * (p.output_gate ? 2 : 1);
    for (int64_t t = 0; t < args.queries.rows; ++t) {
      std::vector<double> q = gathered(args.q.row(t), p.num_heads, q_stride, p.head_dim);
      normalise(q, p.norm, q_norm_);
      rotate(q, args.angles, t);
      if (!p.temperature.is_one()) {
        for (double& x : q) x *= p.temperature.at(args.positions[t]);
      }
      std::copy(q.begin(), q.end(), args.queries.row(t));
      if (args.slots[t] < 0) continue;
      std::vector<double> k = gathered(args.k.row(t), p.num_kv_heads, p.head_dim, p.head_dim);
      std::vector<double> v;
      if (p.keys_are_values) v = k;
      if (!p.keys_are_values && !p.keys_alone) {
        v = gathered(args.v.row(t), p.num_kv_heads, p.value_dim(), p.value_dim());
      }
      normalise(v, p.value_norm, std::vector<float>(p.value_dim(), 1.0f));
      normalise(k, p.norm, k_norm_);
      rotate(k, args.angles, t);
      for (int64_t h = 0; h < p.num_kv_heads; ++h) {
        const auto key = k.begin() + h * p.head_dim;
        put(args, args.slots[t], h, std::vector<float>(key, key + p.head_dim));
        if (p.keys_alone) continue;
        const auto value = v.begin() + h * p.value_dim();
        put(args, args.slots[t], p.num_kv_heads + h,
            std::vector<float>(value, value + p.value_dim()));
      }
    }
  }

 private:
  // Heads of `width` that lie `stride` apart, one after the other.
  static std::vector<double> gathered(const float* row, int64_t heads, int64_t stride,
                                      int64_t width) {
    std::vector<double> x;
    for (int64_t h = 0; h < heads; ++h) {
      x.insert(x.end(), row + h * stride, row + h * stride + width);
    }
    return x;
  }

  // Runs as long as the weights are, each by its own mean.
  static void normalise(std::vector<double>& x, const std::optional<NormSpec>& norm,
                        const std::vector<float>& weight) {
    if (!norm) return;
    const size_t width = weight.size();
    for (size_t first = 0; first < x.size(); first += width) {
      double squares = 0;
      for (size_t d = 0; d < width; ++d) squares += x[first + d] * x[first + d];
      const double mean = squares / static_cast<double>(width);
      const double factor = 1.0 / std::sqrt(mean + static_cast<double>(norm->eps));
      for (size_t d = 0; d < width; ++d) x[first + d] *= factor * weight[d];
    }
  }

  void rotate(std::vector<double>& x, const Rows& angles, int64_t token) const {
    const QkvToCache::Problem& p = problem();
    const int64_t half = p.rotary_dim / 2;
    for (auto at = x.begin(); at != x.end(); at += p.head_dim) {
      const auto head = p.rotates_end ? at + (p.head_dim - p.rotary_dim) : at;
      for (int64_t i = 0; i < half; ++i) {
        double& first = p.rotates_pairs ? head[2 * i] : head[i];
        double& second = p.rotates_pairs ? head[2 * i + 1] : head[i + half];
        const double a = first, b = second;
        const double cos = angles.row(token)[i], sin = angles.row(token)[half + i];
        first = a * cos - b * sin;
        second = b * cos + a * sin;
      }
    }
  }

  // The row of a token in array `array` of its page: keys of all heads, then values.
  void put(const QkvToCache::Args& args, int64_t slot, int64_t array,
           const std::vector<float>& head) const {
    std::byte* page = args.cache.data + slot / kPageTokens * args.cache.unit_bytes;
    const int64_t keys = std::min(array, problem().num_kv_heads), values = array - keys;
    const auto width = static_cast<int64_t>(head.size());
    const int64_t first =
        (keys * problem().head_dim + values * problem().value_dim()) * kPageTokens +
        slot % kPageTokens * width;
    const bool infinite =
        std::any_of(head.begin(), head.end(), [](float x) { return std::isinf(x); });
    for (int64_t d = 0; d < width; ++d) {
      if (problem().cache_dtype == DType::kF8E4M3) {
        const bool is_key = array < problem().num_kv_heads;
        const float scale = is_key ? problem().k_scale : problem().v_scale;
        reinterpret_cast<uint8_t*>(page)[first + d] =
            e4m3_from_float(infinite ? NAN : head[d] / scale);
      } else if (problem().cache_dtype == DType::kF16) {
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
