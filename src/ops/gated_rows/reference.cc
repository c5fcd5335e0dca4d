// GatedRows, AddScaled and SoftCap in float64.
#include <cmath>

#include "ops/cpu/implementation.h"
#include "ops/gated_rows/gated_rows.h"

namespace moe4 {
namespace {

class ReferenceGatedRows final : public Prepared<GatedRows> {
 public:
  ReferenceGatedRows(const GatedRows::Problem& problem, const GatedRows::Weights&, const OpOptions&)
      : Prepared(problem) {}

  size_t workspace_size(const GatedRows::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const GatedRows::Args& args, std::span<std::byte>, const Stream&) const override {
    for (int64_t t = 0; t < args.y.rows; ++t) {
      for (int64_t i = 0; i < problem().width; ++i) {
        const double gate = problem().activation.is_gated() ? args.gate.row(t)[i] : 0.0;
        args.y.row(t)[i] = static_cast<float>(
            apply_activation<double>(problem().activation, gate, args.up.row(t)[i]));
      }
    }
  }
};

class ReferenceAddScaled final : public Prepared<AddScaled> {
 public:
  ReferenceAddScaled(const AddScaled::Problem& problem, const AddScaled::Weights&, const OpOptions&)
      : Prepared(problem) {}

  size_t workspace_size(const AddScaled::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const AddScaled::Args& args, std::span<std::byte>, const Stream&) const override {
    for (int64_t t = 0; t < args.y.rows; ++t) {
      const double factor =
          problem().gated ? 1.0 / (1.0 + std::exp(-static_cast<double>(args.gate.row(t)[0]))) : 1.0;
      for (int64_t i = 0; i < problem().width; ++i) {
        args.y.row(t)[i] = static_cast<float>(args.y.row(t)[i] + factor * args.x.row(t)[i]);
      }
    }
  }
};

class ReferenceSoftCap final : public Prepared<SoftCap> {
 public:
  ReferenceSoftCap(const SoftCap::Problem& problem, const SoftCap::Weights&, const OpOptions&)
      : Prepared(problem) {}

  size_t workspace_size(const SoftCap::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const SoftCap::Args& args, std::span<std::byte>, const Stream&) const override {
    const double cap = problem().cap;
    for (int64_t t = 0; t < args.y.rows; ++t) {
      for (int64_t i = 0; i < problem().width; ++i) {
        args.y.row(t)[i] = static_cast<float>(cap * std::tanh(args.y.row(t)[i] / cap));
      }
    }
  }
};

}  // namespace

const Implementation<GatedRows>& reference_gated_rows() {
  static const CpuImplementation<GatedRows, ReferenceGatedRows> implementation("reference",
                                                                               only_for_tests);
  return implementation;
}

const Implementation<SoftCap>& reference_soft_cap() {
  static const CpuImplementation<SoftCap, ReferenceSoftCap> implementation("reference",
                                                                           only_for_tests);
  return implementation;
}

const Implementation<AddScaled>& reference_add_scaled() {
  static const CpuImplementation<AddScaled, ReferenceAddScaled> implementation("reference",
                                                                               only_for_tests);
  return implementation;
}

}  // namespace moe4
