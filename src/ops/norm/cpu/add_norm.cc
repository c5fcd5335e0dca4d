// AddNorm on the CPU.
#include "ops/norm/add_norm.h"

#include <algorithm>

#include "ops/cpu/implementation.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/parallel.h"

namespace moe4 {
namespace {

class CpuAddNorm final : public Prepared<AddNorm> {
 public:
  CpuAddNorm(const AddNorm::Problem& problem, const AddNorm::Weights& weights,
             const OpOptions& options)
      : Prepared(problem),
        kernels_(op_kernels(options.isa)),
        weight_(norm_weights(problem.norm, weights.weight, problem.width)) {}

  size_t workspace_size(const AddNorm::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return problem().width * static_cast<int64_t>(sizeof(float));
  }

  void run(const AddNorm::Args& args, std::span<std::byte>, const Stream& stream) const override {
    const int64_t width = problem().width, count = args.y.rows;
    const int64_t grain = parallel_grain(count, 3 * width * int64_t{sizeof(float)});
    stream.threads->parallel_for(count, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t t = args.rows != nullptr ? args.rows[i] : i;
        float* row = args.residual.row(t);
        if (!args.delta.empty()) kernels_.axpy(1.0f, args.delta.row(t), width, row);
        if (args.scale != 1.0f) std::for_each_n(row, width, [&](float& v) { v *= args.scale; });
        kernels_.rms_norm(row, weight_.data(), problem().norm.eps, width, args.y.row(i));
      }
    });
  }

 private:
  const OpKernels& kernels_;
  std::vector<float> weight_;
};

Support accepts(const AddNorm::Problem& problem) {
  return require_multiple_of_16("the width", problem.width);
}

}  // namespace

const Implementation<AddNorm>& cpu_add_norm() {
  static const CpuImplementation<AddNorm, CpuAddNorm> implementation("cpu", accepts);
  return implementation;
}

}  // namespace moe4
