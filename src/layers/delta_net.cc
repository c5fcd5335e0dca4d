// Gated delta net: projections, convolution, recurrence, gated norm.
#include "layers/delta_net.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace moe4 {
namespace {

constexpr float kL2Epsilon = 1e-6f;

// log(1 + e^x), linear where the sum cannot be told from x.
float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

}  // namespace

class DeltaNet::State final : public MixerState {
 public:
  explicit State(const DeltaNetShape& shape)
      : conv_((shape.conv_taps - 1) * shape.channels()),
        memory_(static_cast<size_t>(shape.num_value_heads * shape.key_dim * shape.value_dim) *
                sizeof(float)),
        head_size_(shape.key_dim * shape.value_dim) {}

  /// [taps - 1, channels]: inputs of the convolution before the next token.
  std::vector<float>& conv() { return conv_; }
  /// [key_dim, value_dim].
  float* memory(int64_t head) {
    return reinterpret_cast<float*>(memory_.data()) + head * head_size_;
  }

 private:
  std::vector<float> conv_;
  AlignedBuffer memory_;
  int64_t head_size_;
};

struct DeltaNet::Buffers {
  float* conv_in;  // [taps - 1 + T, channels]: the past, then this call's projections
  float* mixed;    // [T, channels] after the convolution; q and k normalised
  float* z;        // [T, values]
  float* a;        // [T, value heads], becomes the decay exp(g)
  float* b;        // [T, value heads], becomes beta
};

DeltaNet::DeltaNet(const DeltaNetShape& shape, DeltaNetWeights weights)
    : shape_(shape), weights_(std::move(weights)) {
  MOE4_CHECK(shape_.key_dim % 16 == 0 && shape_.value_dim % 16 == 0);
  MOE4_CHECK(shape_.num_value_heads % shape_.num_key_heads == 0 && shape_.conv_taps >= 1);
  for (float a : weights_.a_log) decay_rate_.push_back(-std::exp(a));
}

std::unique_ptr<MixerState> DeltaNet::new_state(int64_t, DType) const {
  return std::make_unique<State>(shape_);
}

int64_t DeltaNet::weight_bytes() const {
  return weights_.in_proj_qkv.weight_bytes() + weights_.in_proj_z.weight_bytes() +
         weights_.in_proj_b.weight_bytes() + weights_.in_proj_a.weight_bytes() +
         weights_.out_proj.weight_bytes();
}

void DeltaNet::forward(LayerContext& context, const Activations& x, const Positions& positions,
                       MixerState& mixer_state, float* out) const {
  Scratch::Frame frame(context.scratch);
  auto& state = static_cast<State&>(mixer_state);
  const int64_t tokens = positions.num_tokens, channels = shape_.channels();
  const int64_t past = (shape_.conv_taps - 1) * channels;
  Scratch& scratch = context.scratch;
  Buffers b{};
  b.conv_in = scratch.take<float>(past + tokens * channels);
  b.mixed = scratch.take<float>(tokens * channels);
  b.z = scratch.take<float>(tokens * shape_.values());
  b.a = scratch.take<float>(tokens * shape_.num_value_heads);
  b.b = scratch.take<float>(tokens * shape_.num_value_heads);
  const LinearCall calls[] = {{&weights_.in_proj_qkv, x.data, x.stride, b.conv_in + past, channels},
                              {&weights_.in_proj_z, x.data, x.stride, b.z, shape_.values()},
                              {&weights_.in_proj_b, x.data, x.stride, b.b, shape_.num_value_heads},
                              {&weights_.in_proj_a, x.data, x.stride, b.a, shape_.num_value_heads}};
  apply_linears(context, calls, tokens);

  std::copy(state.conv().begin(), state.conv().end(), b.conv_in);
  convolve(context, tokens, b);
  std::copy_n(b.conv_in + tokens * channels, past, state.conv().begin());

  const Activations merged = take_activations(context, tokens, shape_.values());
  run_heads(context, tokens, b, state, merged);
  apply_linear(context, {&weights_.out_proj, merged.data, merged.stride, out, shape_.hidden_size},
               tokens);
}

// The convolution, one head at a time; q and k heads are brought to unit length, q scaled.
void DeltaNet::convolve(LayerContext& context, int64_t tokens, const Buffers& b) const {
  const int64_t channels = shape_.channels(), key_dim = shape_.key_dim;
  const int64_t units = 2 * shape_.num_key_heads + shape_.num_value_heads;
  const float query_scale = 1.0f / std::sqrt(static_cast<float>(key_dim));
  const int64_t bytes = 2 * channels / units * int64_t{sizeof(float)} * shape_.conv_taps;
  context.threads.parallel_for(
      tokens * units, parallel_grain(tokens * units, bytes), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t t = i / units, unit = i % units;
          const bool is_value = unit >= 2 * shape_.num_key_heads;
          const int64_t channel =
              is_value ? 2 * shape_.keys() + (unit - 2 * shape_.num_key_heads) * shape_.value_dim
                       : unit * key_dim;
          const int64_t n = is_value ? shape_.value_dim : key_dim;
          float* out = b.mixed + t * channels + channel;
          context.kernels.conv_silu(b.conv_in + t * channels + channel, channels,
                                    weights_.conv.data() + channel, channels, shape_.conv_taps, n,
                                    out);
          if (is_value) continue;
          const float scale = unit < shape_.num_key_heads ? query_scale : 1.0f;
          context.kernels.l2_norm(out, kL2Epsilon, scale, n, out);
        }
      });
}

void DeltaNet::run_heads(LayerContext& context, int64_t tokens, const Buffers& b, State& state,
                         const Activations& merged) const {
  const int64_t heads = shape_.num_value_heads, dim = shape_.value_dim;
  const int64_t per_key_head = heads / shape_.num_key_heads;
  for (int64_t i = 0; i < tokens * heads; ++i) {
    b.a[i] = std::exp(decay_rate_[i % heads] * softplus(b.a[i] + weights_.dt_bias[i % heads]));
    b.b[i] = 1.0f / (1.0f + std::exp(-b.b[i]));
  }
  const int64_t bytes = tokens * 2 * shape_.key_dim * dim * int64_t{sizeof(float)};
  context.threads.parallel_for(
      heads, parallel_grain(heads, bytes), [&](int64_t begin, int64_t end, int) {
        for (int64_t h = begin; h < end; ++h) {
          const float* query = b.mixed + h / per_key_head * shape_.key_dim;
          context.kernels.delta_rule({.num_tokens = tokens,
                                      .key_dim = shape_.key_dim,
                                      .value_dim = dim,
                                      .state = state.memory(h),
                                      .query = query,
                                      .key = query + shape_.keys(),
                                      .value = b.mixed + 2 * shape_.keys() + h * dim,
                                      .decay = b.a + h,
                                      .beta = b.b + h,
                                      .qk_stride = shape_.channels(),
                                      .value_stride = shape_.channels(),
                                      .gate_stride = heads,
                                      .out = merged.data + h * dim,
                                      .out_stride = merged.stride});
          for (int64_t t = 0; t < tokens; ++t) {
            float* out = merged.row(t) + h * dim;
            weights_.norm.apply(context.kernels, out, out);
            context.kernels.silu_mul(b.z + t * shape_.values() + h * dim, out, dim, out);
          }
        }
      });
}

}  // namespace moe4
