// FillStreams, MixStreams and AddToStreams on the CPU: a few tokens at a time.
#include "ops/streams/streams.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "ops/cpu/implementation.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/parallel.h"

namespace moe4 {
namespace {

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

class CpuFillStreams final : public Prepared<FillStreams> {
 public:
  CpuFillStreams(const StreamShape& problem, const FillStreams::Weights&, const OpOptions&)
      : Prepared(problem) {}
  size_t workspace_size(const FillStreams::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }
  void run(const FillStreams::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    const int64_t tokens = args.x.rows, width = problem().width;
    const int64_t grain = parallel_grain(tokens, 2 * problem().all() * int64_t{sizeof(float)});
    stream.threads->parallel_for(tokens, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t i = 0; i < problem().num_streams; ++i) {
          std::copy_n(args.x.row(t), width, args.streams.row(t) + i * width);
        }
      }
    });
  }
};

class CpuMixStreams final : public Prepared<MixStreams> {
 public:
  CpuMixStreams(const MixStreams::Problem& problem, const MixStreams::Weights& weights,
                const OpOptions& options)
      : Prepared(problem),
        kernels_(op_kernels(options.isa)),
        fn_(float_vector(weights.fn, problem.num_mixes() * problem.shape.all())),
        base_(float_vector(weights.base, problem.num_mixes())),
        scale_(float_vector(weights.scale, problem.is_head ? 1 : 3)) {}

  size_t workspace_size(const MixStreams::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>((fn_.size() + base_.size()) * sizeof(float));
  }
  void run(const MixStreams::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    const int64_t tokens = args.x.rows;
    const int64_t bytes = problem().shape.all() * problem().num_mixes() * int64_t{sizeof(float)};
    stream.threads->parallel_for(tokens, parallel_grain(tokens, bytes),
                                 [&](int64_t begin, int64_t end, int) {
                                   for (int64_t r = begin; r < end; ++r) run_row(args, r);
                                 });
  }

 private:
  static constexpr int64_t kMostMixes = StreamShape::kMost * (2 + StreamShape::kMost);

  void run_row(const MixStreams::Args& args, int64_t r) const {
    const MixStreams::Problem& p = problem();
    const int64_t n = p.shape.num_streams, width = p.shape.width, all = p.shape.all();
    const float* streams = args.streams.row(args.rows != nullptr ? args.rows[r] : r);
    std::array<float, kMostMixes> mixes;
    kernels_.times_transposed({.matrix = fn_.data(),
                               .dtype = DType::kF32,
                               .rows = p.num_mixes(),
                               .columns = all,
                               .num_tokens = 1,
                               .x = streams,
                               .y = mixes.data(),
                               .x_stride = all,
                               .y_stride = kMostMixes});
    const float factor = inverse_rms(streams);
    for (int64_t i = 0; i < p.num_mixes(); ++i) {
      mixes[i] = mixes[i] * factor * scale_[std::min<int64_t>(i / n, 2)] + base_[i];
    }
    float* x = args.x.row(r);
    std::fill_n(x, width, 0.0f);
    for (int64_t i = 0; i < n; ++i) {
      kernels_.axpy(sigmoid(mixes[i]) + p.eps, streams + i * width, width, x);
    }
    if (p.is_head) return;
    float* coefficients = args.coefficients.row(r);
    for (int64_t i = 0; i < n; ++i) coefficients[i] = 2.0f * sigmoid(mixes[n + i]);
    std::copy_n(mixes.data() + 2 * n, n * n, coefficients + n);
    balance(coefficients + n);
  }

  float inverse_rms(const float* streams) const {
    const int64_t all = problem().shape.all();
    std::array<double, 16> squares{};  // so that they need not wait for one another
    for (int64_t d = 0; d < all; d += 16) {
      for (int64_t i = 0; i < 16; ++i) {
        squares[i] += static_cast<double>(streams[d + i]) * static_cast<double>(streams[d + i]);
      }
    }
    double sum = 0;
    for (const double part : squares) sum += part;
    return static_cast<float>(
        1.0 / std::sqrt(sum / static_cast<double>(all) + static_cast<double>(problem().norm_eps)));
  }

  // From logits to a matrix whose rows and columns add up to about 1, in place.
  void balance(float* matrix) const {
    const int64_t n = problem().shape.num_streams;
    const float eps = problem().eps;
    // Divides lines of n elements `step` apart, which begin `line` apart, by their sums.
    const auto divide = [&](int64_t line, int64_t step) {
      for (int64_t i = 0; i < n; ++i) {
        float sum = 0;
        for (int64_t j = 0; j < n; ++j) sum += matrix[i * line + j * step];
        for (int64_t j = 0; j < n; ++j) matrix[i * line + j * step] /= sum + eps;
      }
    };
    for (int64_t i = 0; i < n; ++i) {
      float* row = matrix + i * n;
      const float top = *std::max_element(row, row + n);
      float sum = 0;
      for (int64_t j = 0; j < n; ++j) sum += row[j] = std::exp(row[j] - top);
      for (int64_t j = 0; j < n; ++j) row[j] = row[j] / sum + eps;
    }
    divide(1, n);
    for (int64_t k = 1; k < problem().iterations; ++k) {
      divide(n, 1);
      divide(1, n);
    }
  }

  const OpKernels& kernels_;
  std::vector<float> fn_, base_, scale_;
};

class CpuAddToStreams final : public Prepared<AddToStreams> {
 public:
  CpuAddToStreams(const StreamShape& problem, const AddToStreams::Weights&, const OpOptions&)
      : Prepared(problem) {}
  size_t workspace_size(const AddToStreams::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }
  void run(const AddToStreams::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    const int64_t tokens = args.y.rows;
    const int64_t bytes = (3 + problem().num_streams) * problem().all() * int64_t{sizeof(float)};
    stream.threads->parallel_for(tokens, parallel_grain(tokens, bytes),
                                 [&](int64_t begin, int64_t end, int) {
                                   for (int64_t t = begin; t < end; ++t) run_token(args, t);
                                 });
  }

 private:
  static constexpr int64_t kColumns = 64;  // worked on together

  void run_token(const AddToStreams::Args& args, int64_t t) const {
    const int64_t n = problem().num_streams, width = problem().width;
    const float *spread = args.coefficients.row(t), *matrix = spread + n, *y = args.y.row(t);
    float* streams = args.streams.row(t);
    std::array<std::array<float, kColumns>, StreamShape::kMost> sums;
    for (int64_t first = 0; first < width; first += kColumns) {
      const int64_t count = std::min(kColumns, width - first);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t d = 0; d < count; ++d) sums[i][d] = spread[i] * y[first + d];
        for (int64_t j = 0; j < n; ++j) {
          const float factor = matrix[j * n + i];
          const float* stream = streams + j * width + first;
          for (int64_t d = 0; d < count; ++d) sums[i][d] += factor * stream[d];
        }
      }
      for (int64_t i = 0; i < n; ++i) {
        std::copy_n(sums[i].begin(), count, streams + i * width + first);
      }
    }
  }
};

Support accepts(const MixStreams::Problem& problem) {
  if (problem.shape.num_streams > StreamShape::kMost) {
    return Rejection{Rejection::Kind::kShape, std::to_string(problem.shape.num_streams) +
                                                  " streams are more than " +
                                                  std::to_string(StreamShape::kMost)};
  }
  return require_multiple_of_16("the width of a stream", problem.shape.width);
}

}  // namespace

const Implementation<FillStreams>& cpu_fill_streams() {
  static const CpuImplementation<FillStreams, CpuFillStreams> implementation("cpu");
  return implementation;
}

const Implementation<MixStreams>& cpu_mix_streams() {
  static const CpuImplementation<MixStreams, CpuMixStreams> implementation("cpu", accepts);
  return implementation;
}

const Implementation<AddToStreams>& cpu_add_to_streams() {
  static const CpuImplementation<AddToStreams, CpuAddToStreams> implementation("cpu");
  return implementation;
}

}  // namespace moe4
