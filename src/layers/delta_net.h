// Gated delta net: a short causal convolution, then a linear-attention state per value head updated
// by the gated delta rule.
#pragma once

#include <memory>
#include <vector>

#include "layers/linear.h"
#include "layers/mixer.h"
#include "layers/norm.h"

namespace moe4 {

struct DeltaNetShape {
  int64_t hidden_size = 0;
  int64_t num_key_heads = 0;
  int64_t num_value_heads = 0;  ///< a multiple of num_key_heads; consecutive ones share a key head
  int64_t key_dim = 0;          ///< of one head, multiple of 16
  int64_t value_dim = 0;        ///< of one head, multiple of 16
  int64_t conv_taps = 0;

  int64_t keys() const { return num_key_heads * key_dim; }
  int64_t values() const { return num_value_heads * value_dim; }
  int64_t channels() const { return 2 * keys() + values(); }  ///< [q | k | v], convolved
};

struct DeltaNetWeights {
  Linear in_proj_qkv, in_proj_z, in_proj_b, in_proj_a, out_proj;
  std::vector<float>
      conv;  ///< [taps, channels] (transposed from the checkpoint's [channels, 1, taps])
  std::vector<float> a_log;    ///< [value heads]
  std::vector<float> dt_bias;  ///< [value heads]
  RmsNorm norm;                ///< over value_dim, plain weight whatever the model's other norms do
};

/// Per token and value head, all in float32:
///   g = -exp(A_log) softplus(a + dt_bias), beta = sigmoid(b)
///   S <- exp(g) S;  S <- S + k (beta (v - k^T S));  o = q^T S / sqrt(key_dim)
/// with q and k of unit length; then norm(o) * silu(z) goes through out_proj.
class DeltaNet final : public Mixer {
 public:
  DeltaNet(const DeltaNetShape& shape, DeltaNetWeights weights);

  std::unique_ptr<MixerState> new_state(int64_t capacity, DType kv_dtype) const override;
  void forward(LayerContext& context, const Activations& x, const Positions& positions,
               MixerState& state, float* out) const override;
  int64_t weight_bytes() const override;

 private:
  class State;
  struct Buffers;

  void convolve(LayerContext& context, int64_t tokens, const Buffers& b) const;
  void run_heads(LayerContext& context, int64_t tokens, const Buffers& b, State& state,
                 const Activations& merged) const;

  DeltaNetShape shape_;
  DeltaNetWeights weights_;
  std::vector<float> decay_rate_;  // -exp(A_log)
};

}  // namespace moe4
