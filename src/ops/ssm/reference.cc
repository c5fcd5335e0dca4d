// Ssm in float64, a sequence and a token at a time.
#include <algorithm>
#include <cmath>

#include "ops/cpu/implementation.h"
#include "ops/ssm/ssm.h"

namespace moe4 {
namespace {

double silu(double x) { return x / (1.0 + std::exp(-x)); }

class ReferenceSsm final : public Prepared<Ssm> {
 public:
  ReferenceSsm(const Ssm::Problem& problem, const Ssm::Weights& weights, const OpOptions&)
      : Prepared(problem),
        conv_(float_vector(weights.conv, problem.channels() * problem.conv_taps)),
        conv_bias_(problem.channels(), 0.0f),
        a_log_(float_vector(weights.a_log, problem.num_heads)),
        d_(float_vector(weights.d, problem.num_heads)),
        dt_bias_(float_vector(weights.dt_bias, problem.num_heads)),
        norm_(float_vector(weights.norm, problem.inner())) {
    if (weights.conv_bias.view.empty()) return;
    conv_bias_ = float_vector(weights.conv_bias, problem.channels());
  }

  size_t workspace_size(const Ssm::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>((conv_.size() + conv_bias_.size() + 3 * d_.size() + norm_.size()) *
                                sizeof(float));
  }

  void run(const Ssm::Args& args, std::span<std::byte>, const Stream&) const override {
    const Batch& batch = *args.batch;
    for (int64_t s = 0; s < batch.num_seqs; ++s) {
      if (batch.query_start[s + 1] > batch.query_start[s]) run_sequence(args, s);
    }
  }

 private:
  void run_sequence(const Ssm::Args& args, int64_t s) const {
    const Ssm::Problem& p = problem();
    const Batch& batch = *args.batch;
    const int64_t first = batch.query_start[s], tokens = batch.query_start[s + 1] - first;
    const int64_t past = p.conv_taps - 1;
    auto* state = reinterpret_cast<float*>(
        args.cache.data + batch.tables[args.cache.table].state[s] * args.cache.unit_bytes);
    float* stored_memory = state + p.memory_offset();
    const bool fresh = batch.context_len[s] == tokens;
    // Inputs of the convolution: the past, then this step's.
    std::vector<std::vector<double>> inputs;
    for (int64_t r = 0; r < past; ++r) {
      const float* row = state + r * p.channels();
      inputs.emplace_back(row, row + p.channels());
      if (fresh) inputs.back().assign(p.channels(), 0.0);
    }
    for (int64_t t = first; t < first + tokens; ++t) {
      inputs.emplace_back(args.u.row(t), args.u.row(t) + p.channels());
    }
    std::vector<double> memory(stored_memory, stored_memory + p.inner() * p.state_dim);
    if (fresh) std::fill(memory.begin(), memory.end(), 0.0);
    for (int64_t t = 0; t < tokens; ++t) run_token(args, first + t, inputs.data() + t, memory);
    for (int64_t r = 0; r < past; ++r) {
      std::transform(inputs[tokens + r].begin(), inputs[tokens + r].end(), state + r * p.channels(),
                     [](double x) { return static_cast<float>(x); });
    }
    std::transform(memory.begin(), memory.end(), stored_memory,
                   [](double x) { return static_cast<float>(x); });
  }

  // `inputs`: the convolution's taps, oldest first.
  void run_token(const Ssm::Args& args, int64_t t, const std::vector<double>* inputs,
                 std::vector<double>& memory) const {
    const Ssm::Problem& p = problem();
    std::vector<double> u(p.channels());
    for (int64_t c = 0; c < p.channels(); ++c) {
      double sum = conv_bias_[c];
      for (int64_t j = 0; j < p.conv_taps; ++j) sum += conv_[c * p.conv_taps + j] * inputs[j][c];
      u[c] = silu(sum);
    }
    std::vector<double> y(p.inner());
    for (int64_t h = 0; h < p.num_heads; ++h) {
      const int64_t group = h / (p.num_heads / p.num_groups);
      const double* x = &u[h * p.head_dim];
      const double* b = &u[p.inner() + group * p.state_dim];
      const double* c = b + p.num_groups * p.state_dim;
      const double raw = static_cast<double>(args.dt.row(t)[h]) + dt_bias_[h];
      const double softplus = raw > 20 ? raw : std::log1p(std::exp(raw));
      const double dt = std::clamp(softplus, static_cast<double>(p.time_step_min),
                                   static_cast<double>(p.time_step_max));
      const double decay = std::exp(-std::exp(static_cast<double>(a_log_[h])) * dt);
      double* s = &memory[h * p.state_dim * p.head_dim];
      for (int64_t i = 0; i < p.head_dim; ++i) {
        double sum = d_[h] * x[i];
        for (int64_t n = 0; n < p.state_dim; ++n) {
          double& cell = s[n * p.head_dim + i];
          cell = decay * cell + b[n] * dt * x[i];
          sum += c[n] * cell;
        }
        y[h * p.head_dim + i] = sum * silu(args.z.row(t)[h * p.head_dim + i]);
      }
    }
    const int64_t width = p.inner() / p.num_groups;
    for (int64_t g = 0; g < p.num_groups; ++g) {
      double squares = 0;
      for (int64_t i = g * width; i < (g + 1) * width; ++i) squares += y[i] * y[i];
      const double mean = squares / static_cast<double>(width);
      const double factor = 1.0 / std::sqrt(mean + static_cast<double>(p.norm_eps));
      for (int64_t i = g * width; i < (g + 1) * width; ++i) {
        args.y.row(t)[i] = static_cast<float>(y[i] * factor * norm_[i]);
      }
    }
  }

  std::vector<float> conv_, conv_bias_, a_log_, d_, dt_bias_, norm_;
};

}  // namespace

const Implementation<Ssm>& reference_ssm() {
  static const CpuImplementation<Ssm, ReferenceSsm> implementation("reference", only_for_tests);
  return implementation;
}

}  // namespace moe4
