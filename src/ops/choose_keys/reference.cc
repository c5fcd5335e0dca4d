// ChooseKeys in float64.
#include <algorithm>
#include <cmath>

#include "numerics/f16.h"
#include "ops/choose_keys/choose_keys.h"
#include "ops/cpu/implementation.h"

namespace moe4 {
namespace {

class ReferenceChooseKeys final : public Prepared<ChooseKeys> {
 public:
  ReferenceChooseKeys(const ChooseKeys::Problem& problem, const ChooseKeys::Weights&,
                      const OpOptions&)
      : Prepared(problem) {}

  size_t workspace_size(const ChooseKeys::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const ChooseKeys::Args& args, std::span<std::byte>, const Stream&) const override {
    const Batch& batch = *args.batch;
    for (int64_t s = 0; s < batch.num_seqs; ++s) {
      for (int64_t t = batch.query_start[s]; t < batch.query_start[s + 1]; ++t) {
        run_token(args, s, t);
      }
    }
  }

 private:
  void run_token(const ChooseKeys::Args& args, int64_t s, int64_t t) const {
    const ChooseKeys::Problem& p = problem();
    std::vector<std::pair<double, int32_t>> order;  // by falling score, then rising position
    std::vector<std::vector<double>> queries;
    for (int64_t a = 0; a < p.num_heads; ++a) {
      queries.push_back(rotated(args.q.row(t) + a * p.dim, args.angles.row(t)));
    }
    const int64_t keys = (args.batch->positions[t] + 1) / p.ratio;
    for (int32_t j = 0; j < keys; ++j) {
      double score = 0;
      for (int64_t a = 0; a < p.num_heads; ++a) {
        double dot = 0;
        for (int64_t d = 0; d < p.dim; ++d) dot += queries[a][d] * cached(args, s, j, d);
        score += static_cast<double>(args.weights.row(t)[a]) * (dot <= 0 ? 0.0 : dot);
      }
      order.emplace_back(std::isnan(score) ? -INFINITY : -score, j);
    }
    std::sort(order.begin(), order.end());
    int32_t* chosen = args.chosen + t * p.most;
    std::fill_n(chosen, p.most, -1);
    const auto count = std::min<int64_t>(p.most, static_cast<int64_t>(order.size()));
    for (int64_t i = 0; i < count; ++i) chosen[i] = order[i].second;
    std::sort(chosen, chosen + count);
  }

  std::vector<double> rotated(const float* head, const float* angles) const {
    std::vector<double> query(head, head + problem().dim);
    const int64_t half = problem().rotary_dim / 2;
    const int64_t at = problem().rotates_end ? problem().dim - problem().rotary_dim : 0;
    for (int64_t i = 0; i < half; ++i) {
      double& first = query[at + (problem().rotates_pairs ? 2 * i : i)];
      double& second = query[at + (problem().rotates_pairs ? 2 * i + 1 : i + half)];
      const double a = first, b = second, cos = angles[i], sin = angles[half + i];
      first = a * cos - b * sin;
      second = b * cos + a * sin;
    }
    return query;
  }

  double cached(const ChooseKeys::Args& args, int64_t s, int64_t j, int64_t d) const {
    const CacheTable& table = args.batch->tables[args.cache.table];
    // Of `ratio` tokens, in the page of the last of them.
    const int64_t ratio = problem().ratio, last = (j + 1) * ratio - 1;
    const int64_t block = table.blocks[s * table.max_blocks + last / kPageTokens];
    const std::byte* page = args.cache.data + block * args.cache.unit_bytes;
    const int64_t i = last % kPageTokens / ratio * problem().dim + d;
    if (problem().cache_dtype == DType::kF16) {
      return static_cast<double>(to_float(reinterpret_cast<const F16*>(page)[i]));
    }
    return static_cast<double>(reinterpret_cast<const float*>(page)[i]);
  }
};

}  // namespace

const Implementation<ChooseKeys>& reference_choose_keys() {
  static const CpuImplementation<ChooseKeys, ReferenceChooseKeys> implementation("reference",
                                                                                 only_for_tests);
  return implementation;
}

}  // namespace moe4
