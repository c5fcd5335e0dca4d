// LatentAttention in float64, with expanded keys and values.
#include <algorithm>
#include <cmath>

#include "moe/dequantize.h"
#include "numerics/f16.h"
#include "ops/cpu/implementation.h"
#include "ops/latent_attention/latent_attention.h"

namespace moe4 {
namespace {

class ReferenceLatentAttention final : public Prepared<LatentAttention> {
 public:
  ReferenceLatentAttention(const LatentAttention::Problem& problem,
                           const LatentAttention::Weights& weights, const OpOptions&)
      : Prepared(problem) {
    const PlainMatrix kv_b = decode_kv_b(problem, weights.kv_b);
    kv_b_.resize(weights.kv_b.out_features * kv_b.columns);
    convert_to_float(kv_b.data.data(), kv_b.dtype, static_cast<int64_t>(kv_b_.size()),
                     kv_b_.data());
  }

  size_t workspace_size(const LatentAttention::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>(kv_b_.size() * sizeof(float));
  }

  void run(const LatentAttention::Args& args, std::span<std::byte>, const Stream&) const override {
    const Batch& batch = *args.batch;
    for (int64_t s = 0; s < batch.num_seqs; ++s) {
      if (batch.query_start[s] == batch.query_start[s + 1]) continue;
      for (int64_t h = 0; h < problem().num_heads; ++h) run_head(args, s, h);
    }
  }

 private:
  // A head's keys (nope and rotated part) and values of all positions of a sequence.
  struct Expanded {
    std::vector<double> keys, values;
  };

  Expanded expand(const LatentAttention::Args& args, int64_t s, int64_t h, int64_t count) const {
    const LatentAttention::Problem& p = problem();
    Expanded out;
    std::vector<double> row(p.latent_dim + p.rope_dim);
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t d = 0; d < p.latent_dim + p.rope_dim; ++d) row[d] = cached(args, s, j, d);
      for (int64_t i = 0; i < p.nope_dim + p.value_dim; ++i) {
        const float* w = kv_b_.data() + (h * (p.nope_dim + p.value_dim) + i) * p.latent_dim;
        double sum = 0;
        for (int64_t d = 0; d < p.latent_dim; ++d) sum += w[d] * row[d];
        (i < p.nope_dim ? out.keys : out.values).push_back(sum);
      }
      out.keys.insert(out.keys.end(), row.begin() + p.latent_dim, row.end());
    }
    return out;
  }

  void run_head(const LatentAttention::Args& args, int64_t s, int64_t h) const {
    const LatentAttention::Problem& p = problem();
    const Batch& batch = *args.batch;
    const int64_t first = batch.query_start[s], last = batch.query_start[s + 1];
    const int64_t key_dim = p.nope_dim + p.rope_dim;
    const Expanded kv = expand(args, s, h, batch.positions[last - 1] + int64_t{1});
    for (int64_t t = first; t < last; ++t) {
      const int64_t keys = batch.positions[t] + int64_t{1};
      const std::vector<double> query = rotated(args, t, h);
      const double scale = static_cast<double>(p.scale) * p.temperature.at(batch.positions[t]);
      std::vector<double> scores(keys);
      for (int64_t j = 0; j < keys; ++j) {
        if (!is_seen(args, t, j)) {
          scores[j] = -INFINITY;
          continue;
        }
        for (int64_t d = 0; d < key_dim; ++d) scores[j] += query[d] * kv.keys[j * key_dim + d];
        scores[j] *= scale;
      }
      const double top = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (double& score : scores) sum += score = std::exp(score - top);
      for (int64_t d = 0; d < p.value_dim; ++d) {
        double y = 0;
        for (int64_t j = 0; j < keys; ++j) y += scores[j] / sum * kv.values[j * p.value_dim + d];
        args.y.row(t)[h * p.value_dim + d] = static_cast<float>(y);
      }
    }
  }

  bool is_seen(const LatentAttention::Args& args, int64_t t, int64_t j) const {
    const int64_t count = problem().num_chosen;
    const int32_t* chosen = args.chosen + t * count;
    return count == 0 || std::find(chosen, chosen + count, j) != chosen + count;
  }

  std::vector<double> rotated(const LatentAttention::Args& args, int64_t t, int64_t h) const {
    const LatentAttention::Problem& p = problem();
    const float* head = args.q.row(t) + h * (p.nope_dim + p.rope_dim);
    const float* angles = args.angles.row(t);
    std::vector<double> query(head, head + p.nope_dim + p.rope_dim);
    for (int64_t i = 0; i < p.rope_dim / 2; ++i) {
      const double a = head[p.nope_dim + 2 * i], b = head[p.nope_dim + 2 * i + 1];
      const double cos = angles[i], sin = angles[p.rope_dim / 2 + i];
      query[p.nope_dim + 2 * i] = a * cos - b * sin;
      query[p.nope_dim + 2 * i + 1] = a * sin + b * cos;
    }
    return query;
  }

  // Element d of the cached row of position j.
  double cached(const LatentAttention::Args& args, int64_t s, int64_t j, int64_t d) const {
    const CacheTable& table = args.batch->tables[args.cache.table];
    const int64_t block = table.blocks[s * table.max_blocks + j / kPageTokens];
    const std::byte* page = args.cache.data + block * args.cache.unit_bytes;
    const int64_t i = j % kPageTokens * (problem().latent_dim + problem().rope_dim) + d;
    if (problem().cache_dtype == DType::kF16) {
      return static_cast<double>(to_float(reinterpret_cast<const F16*>(page)[i]));
    }
    return static_cast<double>(reinterpret_cast<const float*>(page)[i]);
  }

  std::vector<float> kv_b_;  // [heads, nope + value, latent]
};

}  // namespace

const Implementation<LatentAttention>& reference_latent_attention() {
  static const CpuImplementation<LatentAttention, ReferenceLatentAttention> implementation(
      "reference", only_for_tests);
  return implementation;
}

}  // namespace moe4
