// CompressedAttention in float64, by its definition.
#include <algorithm>
#include <cmath>

#include "numerics/f16.h"
#include "ops/compressed_attention/compressed_attention.h"
#include "ops/cpu/implementation.h"

namespace moe4 {
namespace {

class ReferenceCompressedAttention final : public Prepared<CompressedAttention> {
 public:
  ReferenceCompressedAttention(const CompressedAttention::Problem& problem,
                               const CompressedAttention::Weights& weights, const OpOptions&)
      : Prepared(problem), sinks_(float_vector(weights.sinks, problem.num_heads)) {}

  size_t workspace_size(const CompressedAttention::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>(sinks_.size() * sizeof(float));
  }

  void run(const CompressedAttention::Args& args, std::span<std::byte>,
           const Stream&) const override {
    const Batch& batch = *args.batch;
    for (int64_t s = 0; s < batch.num_seqs; ++s) {
      for (int64_t t = batch.query_start[s]; t < batch.query_start[s + 1]; ++t) {
        const std::vector<std::vector<double>> keys = seen(args, s, t);
        for (int64_t h = 0; h < problem().num_heads; ++h) run_head(args, keys, t, h);
      }
    }
  }

 private:
  // The keys that a token sees.
  std::vector<std::vector<double>> seen(const CompressedAttention::Args& args, int64_t s,
                                        int64_t t) const {
    const CompressedAttention::Problem& p = problem();
    const int64_t position = args.batch->positions[t];
    std::vector<std::vector<double>> keys;
    for (int64_t j = 0; j <= position; ++j) {
      if (position - j < p.window) keys.push_back(key(args, args.cache, s, j, j % kPageTokens));
    }
    const int64_t entries = p.ratio > 0 ? (position + 1) / p.ratio : 0;
    const int32_t* chosen = args.chosen + t * p.num_chosen;
    for (int64_t j = 0; j < entries; ++j) {
      if (p.num_chosen > 0 && std::find(chosen, chosen + p.num_chosen, j) == chosen + p.num_chosen)
        continue;
      const int64_t last = (j + 1) * p.ratio - 1;
      keys.push_back(key(args, args.entries, s, last, last % kPageTokens / p.ratio));
    }
    return keys;
  }

  // The key at a place of the page of a position.
  std::vector<double> key(const CompressedAttention::Args& args, const LayerCache& cache, int64_t s,
                          int64_t position, int64_t place) const {
    const CacheTable& table = args.batch->tables[cache.table];
    const int64_t block = table.blocks[s * table.max_blocks + position / kPageTokens];
    const std::byte* page = cache.data + block * cache.unit_bytes;
    std::vector<double> key;
    for (int64_t i = place * problem().head_dim; i < (place + 1) * problem().head_dim; ++i) {
      key.push_back(problem().cache_dtype == DType::kF16
                        ? static_cast<double>(to_float(reinterpret_cast<const F16*>(page)[i]))
                        : static_cast<double>(reinterpret_cast<const float*>(page)[i]));
    }
    return key;
  }

  void run_head(const CompressedAttention::Args& args, const std::vector<std::vector<double>>& keys,
                int64_t t, int64_t h) const {
    const CompressedAttention::Problem& p = problem();
    const float* query = args.queries.row(t) + h * p.head_dim;
    std::vector<double> scores;
    double top = sinks_[h];
    for (const std::vector<double>& key : keys) {
      double dot = 0;
      for (int64_t d = 0; d < p.head_dim; ++d) dot += query[d] * key[d];
      scores.push_back(dot * static_cast<double>(p.scale));
      top = std::max(top, scores.back());
    }
    double sum = std::exp(static_cast<double>(sinks_[h]) - top);
    for (double& score : scores) sum += score = std::exp(score - top);
    std::vector<double> y(p.head_dim);
    for (size_t k = 0; k < keys.size(); ++k) {
      for (int64_t d = 0; d < p.head_dim; ++d) y[d] += scores[k] / sum * keys[k][d];
    }
    const float* angles = args.angles.row(t);
    const int64_t half = p.rotary_dim / 2;
    for (int64_t i = 0; i < half; ++i) {
      double& first = y[p.head_dim - p.rotary_dim + 2 * i];
      double& second = y[p.head_dim - p.rotary_dim + 2 * i + 1];
      const double a = first, b = second, cos = angles[i], sin = -angles[half + i];
      first = a * cos - b * sin;
      second = a * sin + b * cos;
    }
    std::copy(y.begin(), y.end(), args.y.row(t) + h * p.head_dim);
  }

  std::vector<float> sinks_;
};

}  // namespace

const Implementation<CompressedAttention>& reference_compressed_attention() {
  static const CpuImplementation<CompressedAttention, ReferenceCompressedAttention> implementation(
      "reference", only_for_tests);
  return implementation;
}

}  // namespace moe4
