// Grouped-query softmax attention with normalised queries and keys, rotary positions and an
// optional output gate.
#pragma once

#include <memory>

#include "layers/linear.h"
#include "layers/mixer.h"
#include "layers/norm.h"
#include "layers/rotary.h"

namespace moe4 {

struct AttentionShape {
  int64_t hidden_size = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;      ///< multiple of 16
  bool output_gate = false;  ///< q_proj yields [query | gate] per head
};

struct AttentionWeights {
  Linear q_proj, k_proj, v_proj, o_proj;
  RmsNorm q_norm, k_norm;  ///< over head_dim
};

/// Keys and values of a sequence are kept as [kv_head][position][head_dim]. F16 has eight times the
/// resolution of BF16 at the same size, and normalised keys need no range.
class Attention final : public Mixer {
 public:
  Attention(const AttentionShape& shape, const Rotary& rotary, AttentionWeights weights);

  std::unique_ptr<MixerState> new_state(int64_t capacity, DType kv_dtype) const override;
  void forward(LayerContext& context, const Activations& x, const Positions& positions,
               MixerState& state, float* out) const override;
  int64_t weight_bytes() const override;

 private:
  struct Projections;
  class Cache;

  void store_heads(LayerContext& context, const Positions& positions, const Projections& p,
                   Cache& cache) const;
  void attend(LayerContext& context, const Positions& positions, const Projections& p,
              const Cache& cache, const Activations& merged) const;

  AttentionShape shape_;
  Rotary rotary_;
  AttentionWeights weights_;
};

}  // namespace moe4
