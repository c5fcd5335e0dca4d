// The short causal convolution with which recurrent layers begin, on the CPU.
#pragma once

#include <vector>

#include "moe/rejection.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/recurrent.h"
#include "ops/rows.h"
#include "ops/tensor_ref.h"

namespace moe4 {

/// out[t, c] = silu(sum over j < taps of weight[c, j] x[t - taps + 1 + j, c] + bias[c]) along each
/// sequence. Its past is the beginning of a sequence's state: the last inputs [taps - 1, channels],
/// oldest first.
class ShortConv {
 public:
  /// weight: [channels, 1, taps]; bias: [channels], or an empty view.
  ShortConv(const TensorRef& weight, const TensorRef& bias, int64_t channels, int64_t taps);

  static Support accepts(int64_t taps);

  /// Before a step's first run(): sequences that begin have a past of zeros.
  void begin(const RecurrentStates& states) const;
  /// Channels [channel, channel + n) of one token into out [n]. x: [T, channels], all of the step's
  /// inputs; n: a multiple of 16.
  void run(const OpKernels& kernels, const RecurrentStates& states, const Rows& x, int64_t sequence,
           int64_t token, int64_t channel, int64_t n, float* out) const;
  /// After a step's last run(): keeps the last inputs for the next step.
  void end(const RecurrentStates& states, const Rows& x) const;

  int64_t weight_bytes() const { return weight_bytes_; }

 private:
  void keep_inputs(const RecurrentStates& states, const Rows& x, int64_t sequence) const;

  int64_t channels_, taps_, weight_bytes_;
  std::vector<float> weight_;  // [taps, channels]
  std::vector<float> bias_;    // [channels], zeros without one
};

}  // namespace moe4
