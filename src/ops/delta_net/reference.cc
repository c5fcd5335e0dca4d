// DeltaNet in float64, a sequence and a token at a time.
#include <cmath>

#include "ops/cpu/implementation.h"
#include "ops/delta_net/delta_net.h"

namespace moe4 {
namespace {

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

class ReferenceDeltaNet final : public Prepared<DeltaNet> {
 public:
  ReferenceDeltaNet(const DeltaNet::Problem& problem, const DeltaNet::Weights& weights,
                    const OpOptions&)
      : Prepared(problem),
        conv_(float_vector(weights.conv, problem.channels() * problem.conv_taps)),
        a_log_(float_vector(weights.a_log, problem.num_value_heads)),
        dt_bias_(float_vector(weights.dt_bias, problem.num_value_heads)),
        norm_(norm_weights(problem.norm, weights.norm, problem.value_dim)) {}

  size_t workspace_size(const DeltaNet::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>((conv_.size() + 2 * dt_bias_.size() + norm_.size()) *
                                sizeof(float));
  }

  void run(const DeltaNet::Args& args, std::span<std::byte>, const Stream&) const override {
    const Batch& batch = *args.batch;
    for (int64_t s = 0; s < batch.num_seqs; ++s) {
      if (batch.query_start[s + 1] > batch.query_start[s]) run_sequence(args, s);
    }
  }

 private:
  void run_sequence(const DeltaNet::Args& args, int64_t s) const {
    const DeltaNet::Problem& p = problem();
    const Batch& batch = *args.batch;
    const int64_t first = batch.query_start[s], tokens = batch.query_start[s + 1] - first;
    const int64_t past = p.conv_taps - 1;
    auto* state = reinterpret_cast<float*>(
        args.cache.data + batch.tables[args.cache.table].state[s] * args.cache.unit_bytes);
    const bool fresh = batch.context_len[s] == tokens;
    // Inputs of the convolution: the past, then this step's.
    std::vector<std::vector<double>> inputs(past + tokens, std::vector<double>(p.channels()));
    for (int64_t r = 0; r < past + tokens; ++r) {
      for (int64_t c = 0; c < p.channels(); ++c) {
        inputs[r][c] = r >= past ? args.qkv.row(first + r - past)[c]
                       : fresh   ? 0.0f
                                 : state[r * p.channels() + c];
      }
    }
    std::vector<double> memory(p.num_value_heads * p.key_dim * p.value_dim);
    for (size_t i = 0; i < memory.size(); ++i) {
      memory[i] = fresh ? 0.0f : state[p.memory_offset() + static_cast<int64_t>(i)];
    }
    for (int64_t t = 0; t < tokens; ++t) run_token(args, first + t, inputs.data() + t, memory);
    for (int64_t r = 0; r < past; ++r) {
      for (int64_t c = 0; c < p.channels(); ++c) {
        state[r * p.channels() + c] = static_cast<float>(inputs[tokens + r][c]);
      }
    }
    for (size_t i = 0; i < memory.size(); ++i) {
      state[p.memory_offset() + static_cast<int64_t>(i)] = static_cast<float>(memory[i]);
    }
  }

  // `inputs`: the convolution's taps, oldest first.
  void run_token(const DeltaNet::Args& args, int64_t t, const std::vector<double>* inputs,
                 std::vector<double>& memory) const {
    const DeltaNet::Problem& p = problem();
    std::vector<double> mixed(p.channels());
    for (int64_t c = 0; c < p.channels(); ++c) {
      double sum = 0;
      for (int64_t j = 0; j < p.conv_taps; ++j) sum += conv_[c * p.conv_taps + j] * inputs[j][c];
      mixed[c] = sum * sigmoid(sum);
    }
    for (int64_t h = 0; h < p.num_value_heads; ++h) {
      const int64_t key_head = h / (p.num_value_heads / p.num_key_heads);
      const std::vector<double> q = unit(&mixed[key_head * p.key_dim]);
      const std::vector<double> k = unit(&mixed[p.keys() + key_head * p.key_dim]);
      const double* v = &mixed[2 * p.keys() + h * p.value_dim];
      double* s = &memory[h * p.key_dim * p.value_dim];
      const double gate = static_cast<double>(args.a.row(t)[h]) + dt_bias_[h];
      const double decay = std::exp(-std::exp(static_cast<double>(a_log_[h])) *
                                    (gate > 20 ? gate : std::log1p(std::exp(gate))));
      const double beta = sigmoid(args.b.row(t)[h]);
      std::vector<double> o(p.value_dim);
      double squares = 0;
      for (int64_t c = 0; c < p.value_dim; ++c) {
        double known = 0;
        for (int64_t i = 0; i < p.key_dim; ++i) known += k[i] * (s[i * p.value_dim + c] *= decay);
        const double delta = beta * (v[c] - known);
        for (int64_t i = 0; i < p.key_dim; ++i) {
          o[c] += q[i] * (s[i * p.value_dim + c] += k[i] * delta);
        }
        o[c] /= std::sqrt(static_cast<double>(p.key_dim));
        squares += o[c] * o[c];
      }
      const double mean = squares / static_cast<double>(p.value_dim);
      const double factor = 1.0 / std::sqrt(mean + static_cast<double>(p.norm.eps));
      for (int64_t c = 0; c < p.value_dim; ++c) {
        const double z = args.z.row(t)[h * p.value_dim + c];
        args.y.row(t)[h * p.value_dim + c] =
            static_cast<float>(o[c] * factor * norm_[c] * z * sigmoid(z));
      }
    }
  }

  std::vector<double> unit(const double* x) const {
    double squares = 1e-6;
    for (int64_t i = 0; i < problem().key_dim; ++i) squares += x[i] * x[i];
    std::vector<double> out(x, x + problem().key_dim);
    for (double& v : out) v /= std::sqrt(squares);
    return out;
  }

  std::vector<float> conv_, a_log_, dt_bias_, norm_;
};

}  // namespace

const Implementation<DeltaNet>& reference_delta_net() {
  static const CpuImplementation<DeltaNet, ReferenceDeltaNet> implementation("reference",
                                                                             only_for_tests);
  return implementation;
}

}  // namespace moe4
