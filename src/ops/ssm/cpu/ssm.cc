// Ssm on the CPU, in three parallel regions: the convolution over tokens, the recurrence over
// sequences and heads, the gated norm over tokens and groups.
#include "ops/ssm/ssm.h"

#include <algorithm>
#include <cmath>

#include "ops/cpu/implementation.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/recurrent.h"
#include "ops/cpu/short_conv.h"

namespace moe4 {
namespace {

// Channels that are convolved at a time: their inputs of all taps stay in the L1 cache.
constexpr int64_t kConvChannels = 512;

class CpuSsm final : public Prepared<Ssm> {
 public:
  CpuSsm(const Ssm::Problem& problem, const Ssm::Weights& weights, const OpOptions& options)
      : Prepared(problem),
        kernels_(op_kernels(options.isa)),
        conv_(weights.conv, weights.conv_bias, problem.channels(), problem.conv_taps),
        d_(float_vector(weights.d, problem.num_heads)),
        dt_bias_(float_vector(weights.dt_bias, problem.num_heads)),
        norm_(float_vector(weights.norm, problem.inner())) {
    for (const float a : float_vector(weights.a_log, problem.num_heads)) {
      decay_rate_.push_back(-std::exp(a));
    }
  }

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return conv_.weight_bytes() +
           static_cast<int64_t>((3 * d_.size() + norm_.size()) * sizeof(float));
  }
  size_t workspace_size(const Ssm::Args& bound) const override {
    Arena arena = Arena::measuring();
    take_buffers(arena, bound.batch->num_tokens);
    return arena.peak();
  }

  void run(const Ssm::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    const Ssm::Problem& p = problem();
    Arena arena(workspace);
    const Buffers buffers = take_buffers(arena, args.batch->num_tokens);
    const RecurrentStates states(*args.batch, args.cache);
    conv_.begin(states);
    for_each_token_unit(
        *args.batch, ceil_div(p.channels(), kConvChannels),
        (p.conv_taps + 1) * std::min(p.channels(), kConvChannels) * int64_t{sizeof(float)}, stream,
        [&](int64_t sequence, int64_t token, int64_t unit) {
          const int64_t channel = unit * kConvChannels;
          const int64_t n = std::min(kConvChannels, p.channels() - channel);
          conv_.run(kernels_, states, args.u, sequence, token, channel, n,
                    buffers.mixed + token * p.channels() + channel);
        });
    conv_.end(states, args.u);
    for_each_sequence_head(
        *args.batch, p.num_heads, 2 * p.head_dim * p.state_dim * int64_t{sizeof(float)}, stream,
        [&](int64_t sequence, int64_t head) { run_head(args, buffers, states, sequence, head); });
    const int64_t width = p.inner() / p.num_groups;
    for_each_token_unit(*args.batch, p.num_groups, 3 * width * int64_t{sizeof(float)}, stream,
                        [&](int64_t, int64_t token, int64_t group) {
                          const int64_t first = group * width;
                          float* y = args.y.row(token) + first;
                          kernels_.silu_mul(args.z.row(token) + first, y, width, y);
                          kernels_.rms_norm(y, norm_.data() + first, p.norm_eps, width, y);
                        });
  }

 private:
  struct Buffers {
    float* mixed;  // [T, channels] after the convolution
    float* dt;     // [heads, T]
    float* decay;  // [heads, T]
  };

  Buffers take_buffers(Arena& arena, int64_t tokens) const {
    return {.mixed = arena.take<float>(tokens * problem().channels()),
            .dt = arena.take<float>(tokens * problem().num_heads),
            .decay = arena.take<float>(tokens * problem().num_heads)};
  }

  void run_head(const Ssm::Args& args, const Buffers& buffers, const RecurrentStates& states,
                int64_t sequence, int64_t head) const;

  const OpKernels& kernels_;
  ShortConv conv_;
  std::vector<float> decay_rate_;  // -exp(a_log)
  std::vector<float> d_, dt_bias_, norm_;
};

void CpuSsm::run_head(const Ssm::Args& args, const Buffers& buffers, const RecurrentStates& states,
                      int64_t sequence, int64_t head) const {
  const Ssm::Problem& p = problem();
  const int64_t first = states.first_token(sequence), tokens = states.num_tokens(sequence);
  float* dt = buffers.dt + head * args.batch->num_tokens + first;
  float* decay = buffers.decay + head * args.batch->num_tokens + first;
  for (int64_t t = 0; t < tokens; ++t) {
    // In this order a NaN stays.
    const float step = softplus(args.dt.row(first + t)[head] + dt_bias_[head]);
    dt[t] = step < p.time_step_min ? p.time_step_min : std::min(step, p.time_step_max);
    decay[t] = std::exp(decay_rate_[head] * dt[t]);
  }
  const int64_t group = head / (p.num_heads / p.num_groups);
  const float* mixed = buffers.mixed + first * p.channels();
  const float* b = mixed + p.inner() + group * p.state_dim;
  float* memory = states.of(sequence) + p.memory_offset() + head * p.state_dim * p.head_dim;
  if (states.is_new(sequence)) std::fill_n(memory, p.state_dim * p.head_dim, 0.0f);
  kernels_.ssm_scan({.num_tokens = tokens,
                     .head_dim = p.head_dim,
                     .state_dim = p.state_dim,
                     .state = memory,
                     .x = mixed + head * p.head_dim,
                     .b = b,
                     .c = b + p.num_groups * p.state_dim,
                     .decay = decay,
                     .dt = dt,
                     .skip = d_[head],
                     .x_stride = p.channels(),
                     .bc_stride = p.channels(),
                     .out = args.y.row(first) + head * p.head_dim,
                     .out_stride = args.y.stride});
}

Support accepts(const Ssm::Problem& problem) {
  if (Support taps = ShortConv::accepts(problem.conv_taps)) return taps;
  if (problem.num_groups <= 0 || problem.num_heads % problem.num_groups != 0) {
    return Rejection{Rejection::Kind::kShape, "heads are no multiple of groups"};
  }
  if (Support shape = require_multiple_of_16("the width of heads", problem.head_dim)) return shape;
  return require_multiple_of_16("the width of the convolution", problem.channels());
}

}  // namespace

const Implementation<Ssm>& cpu_ssm() {
  static const CpuImplementation<Ssm, CpuSsm> implementation("cpu", accepts);
  return implementation;
}

}  // namespace moe4
