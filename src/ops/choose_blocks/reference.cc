// ChooseBlocks in float64.
#include <algorithm>
#include <cmath>

#include "numerics/f16.h"
#include "ops/choose_blocks/choose_blocks.h"
#include "ops/cpu/implementation.h"

namespace moe4 {
namespace {

class ReferenceChooseBlocks final : public Prepared<ChooseBlocks> {
 public:
  ReferenceChooseBlocks(const ChooseBlocks::Problem& problem, const ChooseBlocks::Weights&,
                        const OpOptions&)
      : Prepared(problem) {}

  size_t workspace_size(const ChooseBlocks::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const ChooseBlocks::Args& args, std::span<std::byte>, const Stream&) const override {
    const Batch& batch = *args.batch;
    for (int64_t s = 0; s < batch.num_seqs; ++s) {
      for (int64_t t = batch.query_start[s]; t < batch.query_start[s + 1]; ++t) {
        for (int64_t a = 0; a < problem().num_heads; ++a) run_head(args, s, t, a);
      }
    }
  }

 private:
  void run_head(const ChooseBlocks::Args& args, int64_t s, int64_t t, int64_t a) const {
    const ChooseBlocks::Problem& p = problem();
    const int64_t position = args.batch->positions[t], own = position / p.block_size;
    std::vector<std::pair<double, int32_t>> order;  // by falling score, then rising block
    for (int64_t b = 0; b <= own; ++b) {
      double score = b > own - p.local ? INFINITY : -INFINITY;
      const int64_t end = std::min((b + 1) * p.block_size, position + 1);
      for (int64_t j = b * p.block_size; j < end; ++j) {
        double dot = 0;
        for (int64_t d = 0; d < p.dim; ++d) {
          dot += static_cast<double>(args.q.row(t)[a * p.dim + d]) * cached(args, s, j, d);
        }
        score = std::max(score, std::isnan(dot) ? INFINITY : dot);
      }
      order.emplace_back(-score, static_cast<int32_t>(b));
    }
    std::sort(order.begin(), order.end());
    int32_t* chosen = args.chosen + (t * p.num_heads + a) * p.most;
    std::fill_n(chosen, p.most, -1);
    const auto count = std::min<int64_t>(p.most, static_cast<int64_t>(order.size()));
    for (int64_t i = 0; i < count; ++i) chosen[i] = order[i].second;
    std::sort(chosen, chosen + count);
  }

  double cached(const ChooseBlocks::Args& args, int64_t s, int64_t j, int64_t d) const {
    const CacheTable& table = args.batch->tables[args.cache.table];
    const int64_t block = table.blocks[s * table.max_blocks + j / kPageTokens];
    const std::byte* page = args.cache.data + block * args.cache.unit_bytes;
    const int64_t i = j % kPageTokens * problem().dim + d;
    if (problem().cache_dtype == DType::kF16) {
      return static_cast<double>(to_float(reinterpret_cast<const F16*>(page)[i]));
    }
    return static_cast<double>(reinterpret_cast<const float*>(page)[i]);
  }
};

}  // namespace

const Implementation<ChooseBlocks>& reference_choose_blocks() {
  static const CpuImplementation<ChooseBlocks, ReferenceChooseBlocks> implementation(
      "reference", only_for_tests);
  return implementation;
}

}  // namespace moe4
