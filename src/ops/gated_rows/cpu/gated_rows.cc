// GatedRows, AddScaled and SoftCap on the CPU.
#include "ops/gated_rows/gated_rows.h"

#include <cmath>

#include "ops/cpu/implementation.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/parallel.h"

namespace moe4 {
namespace {

class CpuGatedRows final : public Prepared<GatedRows> {
 public:
  CpuGatedRows(const GatedRows::Problem& problem, const GatedRows::Weights&,
               const OpOptions& options)
      : Prepared(problem), kernels_(op_kernels(options.isa)) {}

  size_t workspace_size(const GatedRows::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const GatedRows::Args& args, std::span<std::byte>, const Stream& stream) const override {
    const int64_t width = round_up(problem().width, 16), tokens = args.y.rows;
    const int64_t grain = parallel_grain(tokens, 3 * width * int64_t{sizeof(float)});
    stream.threads->parallel_for(tokens, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        run_row(args.gate, args.up.row(t), t, width, args.y.row(t));
      }
    });
  }

 private:
  void run_row(const Rows& gates, const float* up, int64_t t, int64_t width, float* y) const {
    const ActivationParams& activation = problem().activation;
    if (activation.kind == ActivationKind::kRelu2) return kernels_.relu2(up, width, y);
    const float* gate = gates.row(t);
    if (activation.kind == ActivationKind::kSilu && !activation.has_limit())
      return kernels_.silu_mul(gate, up, width, y);
    for (int64_t i = 0; i < width; ++i) y[i] = apply_activation(activation, gate[i], up[i]);
  }

  const OpKernels& kernels_;
};

class CpuAddScaled final : public Prepared<AddScaled> {
 public:
  CpuAddScaled(const AddScaled::Problem& problem, const AddScaled::Weights&,
               const OpOptions& options)
      : Prepared(problem), kernels_(op_kernels(options.isa)) {}

  size_t workspace_size(const AddScaled::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const AddScaled::Args& args, std::span<std::byte>, const Stream& stream) const override {
    const int64_t width = problem().width, tokens = args.y.rows;
    const int64_t grain = parallel_grain(tokens, 3 * width * int64_t{sizeof(float)});
    stream.threads->parallel_for(tokens, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        const float factor =
            problem().gated ? 1.0f / (1.0f + std::exp(-args.gate.row(t)[0])) : 1.0f;
        kernels_.axpy(factor, args.x.row(t), width, args.y.row(t));
      }
    });
  }

 private:
  const OpKernels& kernels_;
};

Support accepts_add_scaled(const AddScaled::Problem& problem) {
  return require_multiple_of_16("the width", problem.width);
}

class CpuSoftCap final : public Prepared<SoftCap> {
 public:
  CpuSoftCap(const SoftCap::Problem& problem, const SoftCap::Weights&, const OpOptions&)
      : Prepared(problem) {}

  size_t workspace_size(const SoftCap::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  // Rows of logits are long and few: threads share each row.
  void run(const SoftCap::Args& args, std::span<std::byte>, const Stream& stream) const override {
    constexpr int64_t kGrain = 4096;  // some ten microseconds of tanh
    const float cap = problem().cap;
    for (int64_t t = 0; t < args.y.rows; ++t) {
      float* row = args.y.row(t);
      stream.threads->parallel_for(problem().width, kGrain, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) row[i] = cap * std::tanh(row[i] / cap);
      });
    }
  }
};

}  // namespace

const Implementation<SoftCap>& cpu_soft_cap() {
  static const CpuImplementation<SoftCap, CpuSoftCap> implementation("cpu");
  return implementation;
}

const Implementation<GatedRows>& cpu_gated_rows() {
  static const CpuImplementation<GatedRows, CpuGatedRows> implementation("cpu");
  return implementation;
}

const Implementation<AddScaled>& cpu_add_scaled() {
  static const CpuImplementation<AddScaled, CpuAddScaled> implementation("cpu", accepts_add_scaled);
  return implementation;
}

}  // namespace moe4
