// AddNorm in float64.
#include <cmath>

#include "ops/cpu/implementation.h"
#include "ops/norm/add_norm.h"

namespace moe4 {
namespace {

class ReferenceAddNorm final : public Prepared<AddNorm> {
 public:
  ReferenceAddNorm(const AddNorm::Problem& problem, const AddNorm::Weights& weights,
                   const OpOptions&)
      : Prepared(problem), weight_(norm_weights(problem.norm, weights.weight, problem.width)) {}

  size_t workspace_size(const AddNorm::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return problem().width * static_cast<int64_t>(sizeof(float));
  }

  void run(const AddNorm::Args& args, std::span<std::byte>, const Stream&) const override {
    for (int64_t i = 0; i < args.y.rows; ++i) {
      const int64_t t = args.rows != nullptr ? args.rows[i] : i;
      float* row = args.residual.row(t);
      double squares = 0;
      for (int64_t c = 0; c < problem().width; ++c) {
        if (!args.delta.empty()) row[c] += args.delta.row(t)[c];
        row[c] *= args.scale;
        squares += static_cast<double>(row[c]) * row[c];
      }
      const double mean = squares / static_cast<double>(problem().width);
      const double factor = 1.0 / std::sqrt(mean + static_cast<double>(problem().norm.eps));
      for (int64_t c = 0; c < problem().width; ++c) {
        args.y.row(i)[c] = static_cast<float>(row[c] * factor * weight_[c]);
      }
    }
  }

 private:
  std::vector<float> weight_;
};

}  // namespace

const Implementation<AddNorm>& reference_add_norm() {
  static const CpuImplementation<AddNorm, ReferenceAddNorm> implementation("reference",
                                                                           only_for_tests);
  return implementation;
}

}  // namespace moe4
