// The part of a layer that mixes tokens (attention or delta net), seen by the model.
#pragma once

#include <cstdint>
#include <memory>

#include "layers/context.h"

namespace moe4 {

/// What a mixer remembers of one sequence.
class MixerState {
 public:
  virtual ~MixerState() = default;
};

/// The positions of one forward call and what all layers derive from them alone.
struct Positions {
  int64_t start = 0;  ///< position of token 0
  int64_t num_tokens = 0;
  const float* cos = nullptr;  ///< [T, half], rotary angles
  const float* sin = nullptr;
};

class Mixer {
 public:
  virtual ~Mixer() = default;
  /// State for up to `capacity` tokens; keys and values are kept as `kv_dtype`, kF16 or kF32.
  virtual std::unique_ptr<MixerState> new_state(int64_t capacity, DType kv_dtype) const = 0;
  /// Appends the tokens to the state; out [T, hidden_size] dense is overwritten.
  virtual void forward(LayerContext& context, const Activations& x, const Positions& positions,
                       MixerState& state, float* out) const = 0;
  /// Weight bytes read for one token.
  virtual int64_t weight_bytes() const = 0;
};

}  // namespace moe4
