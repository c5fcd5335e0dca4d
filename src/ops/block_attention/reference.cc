// BlockAttention in float64, by its definition.
#include <algorithm>
#include <cmath>

#include "numerics/e4m3.h"
#include "numerics/f16.h"
#include "ops/block_attention/block_attention.h"
#include "ops/cpu/implementation.h"

namespace moe4 {
namespace {

class ReferenceBlockAttention final : public Prepared<BlockAttention> {
 public:
  ReferenceBlockAttention(const BlockAttention::Problem& problem, const BlockAttention::Weights&,
                          const OpOptions&)
      : Prepared(problem) {}

  size_t workspace_size(const BlockAttention::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const BlockAttention::Args& args, std::span<std::byte>, const Stream&) const override {
    const Batch& batch = *args.batch;
    for (int64_t s = 0; s < batch.num_seqs; ++s) {
      for (int64_t t = batch.query_start[s]; t < batch.query_start[s + 1]; ++t) {
        for (int64_t h = 0; h < problem().num_heads; ++h) run_head(args, s, t, h);
      }
    }
  }

 private:
  void run_head(const BlockAttention::Args& args, int64_t s, int64_t t, int64_t h) const {
    const BlockAttention::Problem& p = problem();
    const int64_t kv_head = h / (p.num_heads / p.num_kv_heads);
    const int64_t keys = args.batch->positions[t] + int64_t{1};
    const int32_t* chosen = args.chosen + (t * p.num_kv_heads + kv_head) * p.num_chosen;
    const float* query = args.queries.row(t) + h * p.head_dim;
    std::vector<double> scores(keys, -INFINITY);
    for (int64_t j = 0; j < keys; ++j) {
      if (std::find(chosen, chosen + p.num_chosen, j / p.block_size) == chosen + p.num_chosen) {
        continue;
      }
      double dot = 0;
      for (int64_t d = 0; d < p.head_dim; ++d) dot += query[d] * cached(args, s, j, kv_head, d);
      scores[j] = dot * static_cast<double>(p.scale);
    }
    const double top = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& score : scores) sum += score = std::exp(score - top);
    for (int64_t d = 0; d < p.head_dim; ++d) {
      double y = 0;
      for (int64_t j = 0; j < keys; ++j) {
        if (scores[j] == 0) continue;
        y += scores[j] / sum * cached(args, s, j, p.num_kv_heads + kv_head, d);
      }
      args.y.row(t)[h * p.head_dim + d] = static_cast<float>(y);
    }
  }

  // Element d of position j in array `array` of its page: keys of all heads, then values.
  double cached(const BlockAttention::Args& args, int64_t s, int64_t j, int64_t array,
                int64_t d) const {
    const CacheTable& table = args.batch->tables[args.cache.table];
    const int64_t block = table.blocks[s * table.max_blocks + j / kPageTokens];
    const std::byte* page = args.cache.data + block * args.cache.unit_bytes;
    const int64_t i = (array * kPageTokens + j % kPageTokens) * problem().head_dim + d;
    if (problem().cache_dtype == DType::kF8E4M3) {
      const bool is_key = array < problem().num_kv_heads;
      return static_cast<double>(e4m3_to_float(static_cast<uint8_t>(page[i]))) *
             static_cast<double>(is_key ? problem().k_scale : problem().v_scale);
    }
    if (problem().cache_dtype == DType::kF16) {
      return static_cast<double>(to_float(reinterpret_cast<const F16*>(page)[i]));
    }
    return static_cast<double>(reinterpret_cast<const float*>(page)[i]);
  }
};

}  // namespace

const Implementation<BlockAttention>& reference_block_attention() {
  static const CpuImplementation<BlockAttention, ReferenceBlockAttention> implementation(
      "reference", only_for_tests);
  return implementation;
}

}  // namespace moe4
