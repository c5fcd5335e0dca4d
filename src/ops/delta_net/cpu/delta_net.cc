// DeltaNet on the CPU, in two parallel regions: the convolution over tokens, the recurrence over
// sequences and heads.
#include "ops/delta_net/delta_net.h"

#include <algorithm>
#include <cmath>

#include "ops/cpu/implementation.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/parallel.h"

namespace moe4 {
namespace {

constexpr float kL2Epsilon = 1e-6f;
constexpr int64_t kMaxTaps = 16;

// log(1 + e^x), linear where the sum cannot be told from x.
float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

class CpuDeltaNet final : public Prepared<DeltaNet> {
 public:
  CpuDeltaNet(const DeltaNet::Problem& problem, const DeltaNet::Weights& weights,
              const OpOptions& options)
      : Prepared(problem),
        kernels_(op_kernels(options.isa)),
        dt_bias_(float_vector(weights.dt_bias, problem.num_value_heads)),
        norm_(norm_weights(problem.norm, weights.norm, problem.value_dim)) {
    for (const float a : float_vector(weights.a_log, problem.num_value_heads)) {
      decay_rate_.push_back(-std::exp(a));
    }
    // The file has [channels, 1, taps]; the kernel walks channels side by side.
    const int64_t channels = problem.channels(), taps = problem.conv_taps;
    const std::vector<float> file = float_vector(weights.conv, channels * taps);
    conv_.resize(file.size());
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t j = 0; j < taps; ++j) conv_[j * channels + c] = file[c * taps + j];
    }
  }

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>((conv_.size() + 2 * dt_bias_.size() + norm_.size()) *
                                sizeof(float));
  }
  size_t workspace_size(const DeltaNet::Args& bound) const override {
    Arena arena = Arena::measuring();
    take_buffers(arena, bound.batch->num_tokens);
    return arena.peak();
  }

  void run(const DeltaNet::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    Arena arena(workspace);
    const Buffers buffers = take_buffers(arena, args.batch->num_tokens);
    const Batch& batch = *args.batch;
    const int64_t past = (problem().conv_taps - 1) * problem().channels();
    for (int64_t s = 0; s < batch.num_seqs; ++s) {
      const bool empty = batch.query_start[s + 1] == batch.query_start[s];
      if (!empty && is_new(batch, s)) std::fill_n(state_of(args, s), past, 0.0f);
    }
    convolve(args, buffers, stream);
    run_heads(args, buffers, stream);
  }

 private:
  struct Buffers {
    float* mixed;  // [T, channels] after the convolution; q and k normalised
    float* decay;  // [value heads, T]
    float* beta;   // [value heads, T]
  };

  Buffers take_buffers(Arena& arena, int64_t tokens) const {
    return {.mixed = arena.take<float>(tokens * problem().channels()),
            .decay = arena.take<float>(tokens * problem().num_value_heads),
            .beta = arena.take<float>(tokens * problem().num_value_heads)};
  }

  static float* state_of(const DeltaNet::Args& args, int64_t sequence) {
    const int64_t slot = args.batch->tables[args.cache.table].state[sequence];
    return reinterpret_cast<float*>(args.cache.data + slot * args.cache.unit_bytes);
  }

  // Whether the sequence begins in this step, so that its slot holds what a former owner left.
  static bool is_new(const Batch& batch, int64_t sequence) {
    return batch.context_len[sequence] ==
           batch.query_start[sequence + 1] - batch.query_start[sequence];
  }

  void convolve(const DeltaNet::Args& args, const Buffers& buffers, const Stream& stream) const;
  void convolve_unit(const DeltaNet::Args& args, const Buffers& buffers, int64_t sequence,
                     int64_t token, int64_t unit) const;
  void keep_inputs(const DeltaNet::Args& args, int64_t sequence) const;
  void run_heads(const DeltaNet::Args& args, const Buffers& buffers, const Stream& stream) const;
  void run_head(const DeltaNet::Args& args, const Buffers& buffers, int64_t sequence,
                int64_t head) const;

  // Heads of q and k, then of v.
  int64_t num_units() const { return 2 * problem().num_key_heads + problem().num_value_heads; }

  const OpKernels& kernels_;
  std::vector<float> conv_;        // [taps, channels]
  std::vector<float> decay_rate_;  // -exp(a_log)
  std::vector<float> dt_bias_;
  std::vector<float> norm_;
};

void CpuDeltaNet::convolve(const DeltaNet::Args& args, const Buffers& buffers,
                           const Stream& stream) const {
  const Batch& batch = *args.batch;
  const int64_t units = num_units(), tokens = batch.query_start[batch.num_seqs];
  const int64_t bytes =
      2 * problem().channels() / units * int64_t{sizeof(float)} * problem().conv_taps;
  stream.threads->parallel_for(
      tokens * units, parallel_grain(tokens * units, bytes), [&](int64_t begin, int64_t end, int) {
        const int32_t* const starts = batch.query_start;
        int64_t sequence =
            std::upper_bound(starts, starts + batch.num_seqs + 1, begin / units) - starts - 1;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t token = i / units;
          while (starts[sequence + 1] <= token) ++sequence;
          convolve_unit(args, buffers, sequence, token, i % units);
        }
      });
}

// One head of one token; q and k are brought to unit length, q scaled.
void CpuDeltaNet::convolve_unit(const DeltaNet::Args& args, const Buffers& buffers,
                                int64_t sequence, int64_t token, int64_t unit) const {
  const DeltaNet::Problem& p = problem();
  const int64_t channels = p.channels(), taps = p.conv_taps;
  const bool is_value = unit >= 2 * p.num_key_heads;
  const int64_t channel =
      is_value ? 2 * p.keys() + (unit - 2 * p.num_key_heads) * p.value_dim : unit * p.key_dim;
  const int64_t n = is_value ? p.value_dim : p.key_dim;
  const float* state = state_of(args, sequence);
  const float* rows[kMaxTaps];
  for (int64_t j = 0; j < taps; ++j) {
    const int64_t t = token - (taps - 1) + j;
    const int64_t before = args.batch->query_start[sequence] - t;  // tokens before this step
    rows[j] = (before > 0 ? state + (taps - 1 - before) * channels : args.qkv.row(t)) + channel;
  }
  float* out = buffers.mixed + token * channels + channel;
  kernels_.conv_silu(rows, conv_.data() + channel, channels, taps, n, out);
  if (is_value) return;
  const float scale =
      unit < p.num_key_heads ? 1.0f / std::sqrt(static_cast<float>(p.key_dim)) : 1.0f;
  kernels_.l2_norm(out, kL2Epsilon, scale, n, out);
}

// The last inputs of the convolution, for the next step.
void CpuDeltaNet::keep_inputs(const DeltaNet::Args& args, int64_t sequence) const {
  const int64_t channels = problem().channels(), past = problem().conv_taps - 1;
  const int64_t first = args.batch->query_start[sequence];
  const int64_t tokens = args.batch->query_start[sequence + 1] - first;
  float* state = state_of(args, sequence);
  for (int64_t r = 0; r < past; ++r) {  // in rising order: sources lie behind
    const int64_t t = tokens - past + r;
    const float* from = t >= 0 ? args.qkv.row(first + t) : state + (r + tokens) * channels;
    std::copy_n(from, channels, state + r * channels);
  }
}

void CpuDeltaNet::run_heads(const DeltaNet::Args& args, const Buffers& buffers,
                            const Stream& stream) const {
  const Batch& batch = *args.batch;
  for (int64_t s = 0; s < batch.num_seqs; ++s) {
    if (batch.query_start[s + 1] > batch.query_start[s]) keep_inputs(args, s);
  }
  const int64_t items = batch.num_seqs * problem().num_value_heads;
  if (items == 0) return;
  const int64_t bytes = ceil_div(batch.query_start[batch.num_seqs], batch.num_seqs) * 2 *
                        problem().key_dim * problem().value_dim * int64_t{sizeof(float)};
  stream.threads->parallel_for(items, parallel_grain(items, bytes),
                               [&](int64_t begin, int64_t end, int) {
                                 for (int64_t i = begin; i < end; ++i) {
                                   const int64_t s = i / problem().num_value_heads;
                                   if (batch.query_start[s + 1] == batch.query_start[s]) continue;
                                   run_head(args, buffers, s, i % problem().num_value_heads);
                                 }
                               });
}

void CpuDeltaNet::run_head(const DeltaNet::Args& args, const Buffers& buffers, int64_t sequence,
                           int64_t head) const {
  const DeltaNet::Problem& p = problem();
  const int64_t first = args.batch->query_start[sequence];
  const int64_t tokens = args.batch->query_start[sequence + 1] - first;
  const int64_t dim = p.value_dim, channels = p.channels();
  float* decay = buffers.decay + head * args.batch->num_tokens + first;
  float* beta = buffers.beta + head * args.batch->num_tokens + first;
  for (int64_t t = 0; t < tokens; ++t) {
    decay[t] = std::exp(decay_rate_[head] * softplus(args.a.row(first + t)[head] + dt_bias_[head]));
    beta[t] = 1.0f / (1.0f + std::exp(-args.b.row(first + t)[head]));
  }
  const float* mixed = buffers.mixed + first * channels;
  float* memory = state_of(args, sequence) + p.memory_offset() + head * p.key_dim * dim;
  if (is_new(*args.batch, sequence)) std::fill_n(memory, p.key_dim * dim, 0.0f);
  const float* query = mixed + head / (p.num_value_heads / p.num_key_heads) * p.key_dim;
  kernels_.delta_rule({.num_tokens = tokens,
                       .key_dim = p.key_dim,
                       .value_dim = dim,
                       .state = memory,
                       .query = query,
                       .key = query + p.keys(),
                       .value = mixed + 2 * p.keys() + head * dim,
                       .decay = decay,
                       .beta = beta,
                       .qk_stride = channels,
                       .value_stride = channels,
                       .gate_stride = 1,
                       .out = args.y.row(first) + head * dim,
                       .out_stride = args.y.stride});
  for (int64_t t = first; t < first + tokens; ++t) {
    float* out = args.y.row(t) + head * dim;
    kernels_.rms_norm(out, norm_.data(), p.norm.eps, dim, out);
    kernels_.silu_mul(args.z.row(t) + head * dim, out, dim, out);
  }
}

Support accepts(const DeltaNet::Problem& problem) {
  if (problem.conv_taps < 1 || problem.conv_taps > kMaxTaps) {
    return Rejection{Rejection::Kind::kShape,
                     "a convolution over " + std::to_string(problem.conv_taps) +
                         " tokens is not one over 1 to " + std::to_string(kMaxTaps)};
  }
  if (problem.num_key_heads <= 0 || problem.num_value_heads % problem.num_key_heads != 0) {
    return Rejection{Rejection::Kind::kShape, "value heads are no multiple of key heads"};
  }
  if (Support shape = require_multiple_of_16("the width of key heads", problem.key_dim)) {
    return shape;
  }
  return require_multiple_of_16("the width of value heads", problem.value_dim);
}

}  // namespace

const Implementation<DeltaNet>& cpu_delta_net() {
  static const CpuImplementation<DeltaNet, CpuDeltaNet> implementation("cpu", accepts);
  return implementation;
}

}  // namespace moe4
