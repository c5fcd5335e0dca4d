// DeltaNet on the CPU, in two parallel regions: the convolution over tokens, the recurrence over
// sequences and heads.
#include "ops/delta_net/delta_net.h"

#include <algorithm>
#include <cmath>

#include "ops/cpu/implementation.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/recurrent.h"
#include "ops/cpu/short_conv.h"

namespace moe4 {
namespace {

constexpr float kL2Epsilon = 1e-6f;

class CpuDeltaNet final : public Prepared<DeltaNet> {
 public:
  CpuDeltaNet(const DeltaNet::Problem& problem, const DeltaNet::Weights& weights,
              const OpOptions& options)
      : Prepared(problem),
        kernels_(op_kernels(options.isa)),
        conv_(weights.conv, {}, problem.channels(), problem.conv_taps),
        dt_bias_(float_vector(weights.dt_bias, problem.num_value_heads)),
        norm_(norm_weights(problem.norm, weights.norm, problem.value_dim)) {
    for (const float a : float_vector(weights.a_log, problem.num_value_heads)) {
      decay_rate_.push_back(-std::exp(a));
    }
  }

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return conv_.weight_bytes() +
           static_cast<int64_t>((2 * dt_bias_.size() + norm_.size()) * sizeof(float));
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
    const RecurrentStates states(*args.batch, args.cache);
    conv_.begin(states);
    for_each_token_unit(*args.batch, num_units(), unit_bytes(), stream,
                        [&](int64_t sequence, int64_t token, int64_t unit) {
                          convolve_unit(args, buffers, states, sequence, token, unit);
                        });
    conv_.end(states, args.qkv);
    for_each_sequence_head(
        *args.batch, problem().num_value_heads, head_bytes(), stream,
        [&](int64_t sequence, int64_t head) { run_head(args, buffers, states, sequence, head); });
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

  void convolve_unit(const DeltaNet::Args& args, const Buffers& buffers,
                     const RecurrentStates& states, int64_t sequence, int64_t token,
                     int64_t unit) const;
  void run_head(const DeltaNet::Args& args, const Buffers& buffers, const RecurrentStates& states,
                int64_t sequence, int64_t head) const;

  // Heads of q and k, then of v.
  int64_t num_units() const { return 2 * problem().num_key_heads + problem().num_value_heads; }
  // Memory traffic of one unit of one token, and of one head of one.
  int64_t unit_bytes() const {
    return 2 * problem().channels() / num_units() * int64_t{sizeof(float)} * problem().conv_taps;
  }
  int64_t head_bytes() const {
    return 2 * problem().key_dim * problem().value_dim * int64_t{sizeof(float)};
  }

  const OpKernels& kernels_;
  ShortConv conv_;
  std::vector<float> decay_rate_;  // -exp(a_log)
  std::vector<float> dt_bias_;
  std::vector<float> norm_;
};

// One head of one token; q and k are brought to unit length, q scaled.
void CpuDeltaNet::convolve_unit(const DeltaNet::Args& args, const Buffers& buffers,
                                const RecurrentStates& states, int64_t sequence, int64_t token,
                                int64_t unit) const {
  const DeltaNet::Problem& p = problem();
  const bool is_value = unit >= 2 * p.num_key_heads;
  const int64_t channel =
      is_value ? 2 * p.keys() + (unit - 2 * p.num_key_heads) * p.value_dim : unit * p.key_dim;
  const int64_t n = is_value ? p.value_dim : p.key_dim;
  float* out = buffers.mixed + token * p.channels() + channel;
  conv_.run(kernels_, states, args.qkv, sequence, token, channel, n, out);
  if (is_value) return;
  const float scale =
      unit < p.num_key_heads ? 1.0f / std::sqrt(static_cast<float>(p.key_dim)) : 1.0f;
  kernels_.l2_norm(out, kL2Epsilon, scale, n, out);
}

void CpuDeltaNet::run_head(const DeltaNet::Args& args, const Buffers& buffers,
                           const RecurrentStates& states, int64_t sequence, int64_t head) const {
  const DeltaNet::Problem& p = problem();
  const int64_t first = states.first_token(sequence), tokens = states.num_tokens(sequence);
  const int64_t dim = p.value_dim, channels = p.channels();
  float* decay = buffers.decay + head * args.batch->num_tokens + first;
  float* beta = buffers.beta + head * args.batch->num_tokens + first;
  for (int64_t t = 0; t < tokens; ++t) {
    decay[t] = std::exp(decay_rate_[head] * softplus(args.a.row(first + t)[head] + dt_bias_[head]));
    beta[t] = 1.0f / (1.0f + std::exp(-args.b.row(first + t)[head]));
  }
  const float* mixed = buffers.mixed + first * channels;
  float* memory = states.of(sequence) + p.memory_offset() + head * p.key_dim * dim;
  if (states.is_new(sequence)) std::fill_n(memory, p.key_dim * dim, 0.0f);
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
  if (Support taps = ShortConv::accepts(problem.conv_taps)) return taps;
  if (problem.ring != 1) {
    return Rejection{Rejection::Kind::kShape, "states that are written behind every " +
                                                  std::to_string(problem.ring) +
                                                  "th token alone are for GPUs"};
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
