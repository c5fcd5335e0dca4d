// PagedAttention in float64, by its definition.
#include <algorithm>
#include <cmath>

#include "numerics/e4m3.h"
#include "numerics/f16.h"
#include "ops/attention/paged_attention.h"
#include "ops/cpu/implementation.h"

namespace moe4 {
namespace {

class ReferencePagedAttention final : public Prepared<PagedAttention> {
 public:
  ReferencePagedAttention(const PagedAttention::Problem& problem,
                          const PagedAttention::Weights& weights, const OpOptions&)
      : Prepared(problem), sinks_(sink_values(problem, weights)) {}

  size_t workspace_size(const PagedAttention::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>(sinks_.size() * sizeof(float));
  }

  void run(const PagedAttention::Args& args, std::span<std::byte>, const Stream&) const override {
    const Batch& batch = *args.batch;
    for (int64_t s = 0; s < batch.num_seqs; ++s) {
      for (int64_t t = batch.query_start[s]; t < batch.query_start[s + 1]; ++t) {
        for (int64_t h = 0; h < problem().num_heads; ++h) run_head(args, s, t, h);
      }
    }
  }

 private:
  void run_head(const PagedAttention::Args& args, int64_t s, int64_t t, int64_t h) const {
    const PagedAttention::Problem& p = problem();
    const int64_t kv_head = h / (p.num_heads / p.num_kv_heads);
    const int64_t keys = args.batch->positions[t] + int64_t{1};
    const int64_t first = p.first_key(keys - 1);
    const float* query = args.queries.row(t) + h * p.head_dim;
    std::vector<double> scores(keys);
    double top = -INFINITY, sum = 0;
    for (int64_t j = first; j < keys; ++j) {
      double dot = 0;
      for (int64_t d = 0; d < p.head_dim; ++d) dot += query[d] * cached(args, s, j, kv_head, d);
      if (!is_seen(args, t, kv_head, j)) dot = -INFINITY;
      scores[j] = dot * static_cast<double>(p.scale);
      top = std::max(top, scores[j]);
    }
    if (p.sinks) {
      top = std::max(top, static_cast<double>(sinks_[h]));
      sum = std::exp(static_cast<double>(sinks_[h]) - top);
    }
    for (int64_t j = first; j < keys; ++j) sum += scores[j] = std::exp(scores[j] - top);
    const int64_t value_dim = p.value_dim();
    const int64_t values = p.latent_dim > 0 ? kv_head : p.num_kv_heads + kv_head;
    for (int64_t d = 0; d < value_dim; ++d) {
      double y = 0;
      for (int64_t j = first; j < keys; ++j) {
        y += scores[j] / sum * cached(args, s, j, values, d);
      }
      y *= static_cast<double>(p.value_scale);
      if (p.output_gate != OutputGate::kNone) y *= gate(args.gates.row(t), h, d);
      args.y.row(t)[h * value_dim + d] = static_cast<float>(y);
    }
  }

  bool is_seen(const PagedAttention::Args& args, int64_t t, int64_t kv_head, int64_t j) const {
    const PagedAttention::Problem& p = problem();
    if (p.num_chosen == 0) return true;
    const bool blocks = p.chooses_blocks();
    const int64_t keys = blocks ? p.block_size : 1, own = args.batch->positions[t] / keys;
    const int32_t* chosen =
        args.chosen + (blocks ? t * p.num_kv_heads + kv_head : t) * p.num_chosen;
    const int32_t* end = chosen + std::min(p.num_chosen, own + 1);
    return std::find(chosen, end, j / keys) != end;
  }

  // What multiplies element d of a head.
  double gate(const float* row, int64_t h, int64_t d) const {
    const auto sigmoid = [](double x) { return 1.0 / (1.0 + std::exp(-x)); };
    const auto softplus = [](double x) { return std::log1p(std::exp(x)); };
    const int64_t width = problem().value_dim();
    switch (problem().output_gate) {
      case OutputGate::kSigmoidBesideQuery:
        return sigmoid(static_cast<double>(row[(2 * h + 1) * width + d]));
      case OutputGate::kSigmoidPerHead:
        return sigmoid(static_cast<double>(row[h]));
      case OutputGate::kSoftplusPerHead:
        return softplus(static_cast<double>(row[h]));
      case OutputGate::kSoftplusPerElement:
        return softplus(static_cast<double>(row[h * width + d]));
      case OutputGate::kNone:
        break;
    }
    return 1.0;
  }

  // Element d of position j in array `array` of its page: keys of all heads, then values.
  double cached(const PagedAttention::Args& args, int64_t s, int64_t j, int64_t array,
                int64_t d) const {
    const CacheTable& table = args.batch->tables[args.cache.table];
    const int64_t block = table.blocks[s * table.max_blocks + j / kPageTokens];
    const std::byte* page = args.cache.data + block * args.cache.unit_bytes;
    const int64_t keys = std::min(array, problem().num_kv_heads), values = array - keys;
    const int64_t width =
        values > 0 || array == problem().num_kv_heads ? problem().value_dim() : problem().head_dim;
    const int64_t element =
        (keys * problem().head_dim + values * problem().value_dim()) * kPageTokens +
        j % kPageTokens * width + d;
    if (problem().cache_dtype == DType::kF8E4M3) {
      const bool is_key = array < problem().num_kv_heads;
      const float x = e4m3_to_float(static_cast<uint8_t>(page[element]));
      return static_cast<double>(x) *
             static_cast<double>(is_key ? problem().k_scale : problem().v_scale);
    }
    if (problem().cache_dtype == DType::kF16) {
      return static_cast<double>(to_float(reinterpret_cast<const F16*>(page)[element]));
    }
    return static_cast<double>(reinterpret_cast<const float*>(page)[element]);
  }

  std::vector<float> sinks_;
};

}  // namespace

const Implementation<PagedAttention>& reference_paged_attention() {
  static const CpuImplementation<PagedAttention, ReferencePagedAttention> implementation(
      "reference", only_for_tests);
  return implementation;
}

}  // namespace moe4
