// FillStreams, MixStreams and AddToStreams in float64.
#include <algorithm>
#include <cmath>

#include "ops/cpu/implementation.h"
#include "ops/streams/streams.h"

namespace moe4 {
namespace {

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

class ReferenceFillStreams final : public Prepared<FillStreams> {
 public:
  ReferenceFillStreams(const StreamShape& problem, const FillStreams::Weights&, const OpOptions&)
      : Prepared(problem) {}
  size_t workspace_size(const FillStreams::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }
  void run(const FillStreams::Args& args, std::span<std::byte>, const Stream&) const override {
    for (int64_t t = 0; t < args.x.rows; ++t) {
      for (int64_t i = 0; i < problem().all(); ++i) {
        args.streams.row(t)[i] = args.x.row(t)[i % problem().width];
      }
    }
  }
};

class ReferenceMixStreams final : public Prepared<MixStreams> {
 public:
  ReferenceMixStreams(const MixStreams::Problem& problem, const MixStreams::Weights& weights,
                      const OpOptions&)
      : Prepared(problem),
        fn_(float_vector(weights.fn, problem.num_mixes() * problem.shape.all())),
        base_(float_vector(weights.base, problem.num_mixes())),
        scale_(float_vector(weights.scale, problem.is_head ? 1 : 3)) {}
  size_t workspace_size(const MixStreams::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return static_cast<int64_t>(fn_.size() * sizeof(float)); }
  void run(const MixStreams::Args& args, std::span<std::byte>, const Stream&) const override {
    const int64_t n = problem().shape.num_streams, width = problem().shape.width;
    for (int64_t r = 0; r < args.x.rows; ++r) {
      const float* streams = args.streams.row(args.rows != nullptr ? args.rows[r] : r);
      const std::vector<double> mixes = mixes_of(streams);
      for (int64_t d = 0; d < width; ++d) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) {
          sum += (sigmoid(mixes[i]) + static_cast<double>(problem().eps)) * streams[i * width + d];
        }
        args.x.row(r)[d] = static_cast<float>(sum);
      }
      if (problem().is_head) continue;
      for (int64_t i = 0; i < n; ++i) {
        args.coefficients.row(r)[i] = static_cast<float>(2 * sigmoid(mixes[n + i]));
      }
      const std::vector<double> matrix = balanced({mixes.begin() + 2 * n, mixes.end()});
      std::copy(matrix.begin(), matrix.end(), args.coefficients.row(r) + n);
    }
  }

 private:
  // Scaled, and with their bases.
  std::vector<double> mixes_of(const float* streams) const {
    const int64_t all = problem().shape.all(), n = problem().shape.num_streams;
    double squares = 0;
    for (int64_t d = 0; d < all; ++d) squares += static_cast<double>(streams[d]) * streams[d];
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(all) +
                                          static_cast<double>(problem().norm_eps));
    std::vector<double> mixes;
    for (int64_t i = 0; i < problem().num_mixes(); ++i) {
      double dot = 0;
      for (int64_t d = 0; d < all; ++d) dot += factor * streams[d] * fn_[i * all + d];
      mixes.push_back(dot * scale_[std::min<int64_t>(i / n, 2)] + base_[i]);
    }
    return mixes;
  }

  std::vector<double> balanced(std::vector<double> matrix) const {
    const int64_t n = problem().shape.num_streams;
    const auto eps = static_cast<double>(problem().eps);
    // Divides lines of n elements `step` apart by their sums.
    const auto divide = [&](int64_t line, int64_t step) {
      for (int64_t i = 0; i < n; ++i) {
        double sum = eps;
        for (int64_t j = 0; j < n; ++j) sum += matrix[i * line + j * step];
        for (int64_t j = 0; j < n; ++j) matrix[i * line + j * step] /= sum;
      }
    };
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < n; ++j) sum += matrix[i * n + j] = std::exp(matrix[i * n + j]);
      for (int64_t j = 0; j < n; ++j) matrix[i * n + j] = matrix[i * n + j] / sum + eps;
    }
    divide(1, n);
    for (int64_t k = 1; k < problem().iterations; ++k) {
      divide(n, 1);
      divide(1, n);
    }
    return matrix;
  }

  std::vector<float> fn_, base_, scale_;
};

class ReferenceAddToStreams final : public Prepared<AddToStreams> {
 public:
  ReferenceAddToStreams(const StreamShape& problem, const AddToStreams::Weights&, const OpOptions&)
      : Prepared(problem) {}
  size_t workspace_size(const AddToStreams::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }
  void run(const AddToStreams::Args& args, std::span<std::byte>, const Stream&) const override {
    const int64_t n = problem().num_streams, width = problem().width;
    for (int64_t t = 0; t < args.y.rows; ++t) {
      const float *spread = args.coefficients.row(t), *matrix = spread + n;
      for (int64_t d = 0; d < width; ++d) {
        std::vector<double> sums;
        for (int64_t i = 0; i < n; ++i) {
          double sum = static_cast<double>(spread[i]) * args.y.row(t)[d];
          for (int64_t j = 0; j < n; ++j) {
            sum += static_cast<double>(matrix[j * n + i]) * args.streams.row(t)[j * width + d];
          }
          sums.push_back(sum);
        }
        for (int64_t i = 0; i < n; ++i) {
          args.streams.row(t)[i * width + d] = static_cast<float>(sums[i]);
        }
      }
    }
  }
};

}  // namespace

const Implementation<FillStreams>& reference_fill_streams() {
  static const CpuImplementation<FillStreams, ReferenceFillStreams> implementation("reference",
                                                                                   only_for_tests);
  return implementation;
}

const Implementation<MixStreams>& reference_mix_streams() {
  static const CpuImplementation<MixStreams, ReferenceMixStreams> implementation("reference",
                                                                                 only_for_tests);
  return implementation;
}

const Implementation<AddToStreams>& reference_add_to_streams() {
  static const CpuImplementation<AddToStreams, ReferenceAddToStreams> implementation(
      "reference", only_for_tests);
  return implementation;
}

}  // namespace moe4
