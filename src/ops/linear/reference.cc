// LinearGroup in float64 over exactly decoded weights.
#include <algorithm>

#include "moe/dequantize.h"
#include "ops/cpu/implementation.h"
#include "ops/linear/input_quant.h"

namespace moe4 {
namespace {

class ReferenceLinearGroup final : public Prepared<LinearGroup> {
 public:
  ReferenceLinearGroup(const LinearGroup::Problem& problem, const LinearGroup::Weights& weights,
                       const OpOptions&)
      : Prepared(problem) {
    for (size_t i = 0; i < weights.members.size(); ++i) {
      const LinearWeights& w = weights.members[i];
      Member& m = members_.emplace_back();
      m.input = input_quant_of(w, problem.members[i].options);
      m.weight.resize(w.out_features * w.in_features);
      for (int64_t n = 0; n < w.out_features; ++n) {
        dequantize_row(w, n, m.weight.data() + n * w.in_features);
      }
      for (int64_t n = 0; n < w.out_features; ++n) m.bias.push_back(bias_at(w, n));
    }
  }

  size_t workspace_size(const LinearGroup::Args& bound) const override {
    return static_cast<size_t>(bound.x.width) * sizeof(float);
  }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    size_t values = 0;
    for (const Member& m : members_) values += m.weight.size();
    return static_cast<int64_t>(values * sizeof(float));
  }

  void run(const LinearGroup::Args& args, std::span<std::byte> workspace,
           const Stream&) const override {
    const int64_t k = problem().in_features;
    auto* x = reinterpret_cast<float*>(workspace.data());
    for (size_t i = 0; i < members_.size(); ++i) {
      const Member& m = members_[i];
      for (int64_t t = 0; t < args.x.rows; ++t) {
        std::copy_n(args.x.row(t), k, x);
        if (m.input) quantize_input(*m.input, x, k, x);
        for (int64_t n = 0; n < args.y[i].width; ++n) {
          double sum = m.bias[n];
          for (int64_t c = 0; c < k; ++c) sum += static_cast<double>(m.weight[n * k + c]) * x[c];
          args.y[i].row(t)[n] = static_cast<float>(sum);
        }
      }
    }
  }

 private:
  struct Member {
    std::vector<float> weight;  // [N, K]
    std::vector<float> bias;    // [N]
    std::optional<InputQuant> input;
  };
  std::vector<Member> members_;
};

}  // namespace

const Implementation<LinearGroup>& reference_linear_group() {
  static const CpuImplementation<LinearGroup, ReferenceLinearGroup> implementation("reference",
                                                                                   only_for_tests);
  return implementation;
}

}  // namespace moe4
