// Ssm: the token-mixing core of a Mamba-2 layer, from its input projection to what its output
// projection reads.
#pragma once

#include <limits>

#include "ops/batch.h"
#include "ops/op.h"
#include "ops/tensor_ref.h"

namespace moe4 {

/// The state-space duality form of Mamba (Dao and Gu, 2024) as Nemotron-H has it. Per sequence,
/// tokens in order, all in float32, with inner = num_heads * head_dim:
///   u' = silu(causal convolution of u over conv_taps tokens, per channel, + conv_bias)
///   x [num_heads, head_dim], B and C [num_groups, state_dim] = u'
///   dt = clamp(softplus(dt + dt_bias), time_step_min, time_step_max)           per head
///   S <- exp(-exp(a_log) dt) S + B outer (dt x);  y' = C S + d x                per head
///   y = y' silu(z), divided by sqrt(mean(y^2) + eps) over each group's inner / num_groups
///       values, times norm
/// Head h reads the B and C of group h / (num_heads / num_groups). The clamp is `time_step_limit`
/// of a configuration; its time_step_min and time_step_max are about initialisation and are not
/// this.
///
/// The state of a sequence is RecurrentSpec{(conv_taps - 1) * channels, num_heads * state_dim *
/// head_dim}: the last inputs of the convolution [conv_taps - 1, channels], oldest first, then S
/// as [head, state_dim, head_dim]. It counts as zeros where the sequence begins in this step
/// (context_len equals its number of tokens).
///
/// Rows are float32; on a GPU z, u and dt (all three) and y may be BF16 too. There prompts are
/// computed in chunks of 64 tokens, products in F16 with float32 sums: within 1e-3 of float64
/// (relative, over all values), where generated tokens are within 1e-5.
struct Ssm {
  static constexpr std::string_view kName = "ssm";
  struct Problem {
    int64_t num_heads = 0;  ///< a multiple of num_groups
    int64_t head_dim = 0;
    int64_t num_groups = 0;  ///< of B, C and the norm
    int64_t state_dim = 0;
    int64_t conv_taps = 0;
    float time_step_min = 0.0f;
    float time_step_max = std::numeric_limits<float>::infinity();
    float norm_eps = 1e-5f;

    int64_t inner() const { return num_heads * head_dim; }
    int64_t channels() const {  ///< [x | B | C], convolved
      return inner() + 2 * num_groups * state_dim;
    }
    int64_t projected() const { return inner() + channels() + num_heads; }  ///< [z | u | dt]
    RecurrentSpec state() const { return {{(conv_taps - 1) * channels(), inner() * state_dim}}; }
    /// Floats from the beginning of a state to S.
    int64_t memory_offset() const { return round_up((conv_taps - 1) * channels(), 16); }
    /// cache_unit_bytes(state()), without an allocation.
    int64_t state_bytes() const {
      return (memory_offset() + round_up(inner() * state_dim, 16)) *
             static_cast<int64_t>(sizeof(float));
    }
  };
  struct Weights {
    TensorRef conv;       ///< [channels, 1, conv_taps]
    TensorRef conv_bias;  ///< [channels], or an empty view
    TensorRef a_log;      ///< [num_heads]
    TensorRef d;          ///< [num_heads]
    TensorRef dt_bias;    ///< [num_heads]
    TensorRef norm;       ///< [inner]
  };
  struct Args {
    Rows z;   ///< [T, inner]
    Rows u;   ///< [T, channels]
    Rows dt;  ///< [T, num_heads]; z, u and dt may be columns of the same rows
    const Batch* batch = nullptr;
    LayerCache cache;
    Rows y;  ///< [T, inner]; aliases none of them; rows of padding are not written
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
