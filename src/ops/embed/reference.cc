// Embed by dequantising the whole table.
#include "moe/dequantize.h"
#include "ops/cpu/implementation.h"
#include "ops/embed/embed.h"

namespace moe4 {
namespace {

class ReferenceEmbed final : public Prepared<Embed> {
 public:
  ReferenceEmbed(const Embed::Problem& problem, const Embed::Weights& weights, const OpOptions&)
      : Prepared(problem), rows_(problem.vocab_size * problem.width) {
    for (int64_t n = 0; n < problem.vocab_size; ++n) {
      dequantize_row(weights.table, n, rows_.data() + n * problem.width);
    }
  }

  size_t workspace_size(const Embed::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return problem().width * static_cast<int64_t>(sizeof(float));
  }
  void run(const Embed::Args& args, std::span<std::byte>, const Stream&) const override {
    for (int64_t t = 0; t < args.y.rows; ++t) {
      const bool known = args.ids[t] >= 0 && args.ids[t] < problem().vocab_size;
      for (int64_t c = 0; c < problem().width; ++c) {
        args.y.row(t)[c] =
            known ? rows_[args.ids[t] * problem().width + c] * problem().scale : 0.0f;
      }
    }
  }

 private:
  std::vector<float> rows_;
};

}  // namespace

const Implementation<Embed>& reference_embed() {
  static const CpuImplementation<Embed, ReferenceEmbed> implementation("reference", only_for_tests);
  return implementation;
}

}  // namespace moe4
