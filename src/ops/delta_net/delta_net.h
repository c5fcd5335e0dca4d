// DeltaNet: the token-mixing core of a gated delta net, from its input projections to what its
// output projection reads.
#pragma once

#include "ops/batch.h"
#include "ops/norm/add_norm.h"
#include "ops/op.h"

namespace moe4 {

/// Per sequence, tokens in order, all in float32:
///   qkv' = silu(causal convolution of qkv over conv_taps tokens, per channel)
///   q, k = rows of qkv' per key head divided by sqrt(sum of squares + 1e-6), q also by
///          sqrt(key_dim); v = the rest, per value head
///   decay = exp(-exp(a_log) softplus(a + dt_bias)), beta = sigmoid(b)       per value head
///   S <- decay S;  S <- S + k (beta (v - k^T S));  o = q^T S
///   y = norm(o) * silu(z)                                                  norm over value_dim
/// Value heads h share key head h / (num_value_heads / num_key_heads).
///
/// The state of a sequence is RecurrentSpec{(conv_taps - 1) * channels, num_value_heads * key_dim *
/// value_dim}: the last inputs of the convolution [conv_taps - 1, channels], oldest first, then S
/// as [value head, key_dim, value_dim]. It counts as zeros where the sequence begins in this step
/// (context_len equals its number of tokens).
///
/// Rows are float32; on a GPU qkv and z (both) and y may be BF16 too. There prompts are computed in
/// chunks of 64 tokens, products in F16 with float32 sums: within 1e-3 of float64 (relative, over
/// all values), where generated tokens are within 1e-5.
struct DeltaNet {
  static constexpr std::string_view kName = "delta_net";
  struct Problem {
    int64_t num_key_heads = 0;
    int64_t num_value_heads = 0;  ///< a multiple of num_key_heads
    int64_t key_dim = 0;          ///< of one head
    int64_t value_dim = 0;        ///< of one head
    int64_t conv_taps = 0;
    NormSpec norm;

    int64_t keys() const { return num_key_heads * key_dim; }
    int64_t values() const { return num_value_heads * value_dim; }
    int64_t channels() const { return 2 * keys() + values(); }  ///< [q | k | v], convolved
    RecurrentSpec state() const {
      return {{(conv_taps - 1) * channels(), num_value_heads * key_dim * value_dim}};
    }
    /// cache_unit_bytes(state()), without an allocation.
    int64_t state_bytes() const {
      return (memory_offset() + round_up(num_value_heads * key_dim * value_dim, 16)) *
             static_cast<int64_t>(sizeof(float));
    }
    /// Floats from the beginning of a state to S.
    int64_t memory_offset() const { return round_up((conv_taps - 1) * channels(), 16); }
  };
  struct Weights {
    TensorRef conv;     ///< [channels, 1, conv_taps]
    TensorRef a_log;    ///< [num_value_heads]
    TensorRef dt_bias;  ///< [num_value_heads]
    TensorRef norm;     ///< [value_dim]
  };
  struct Args {
    Rows qkv;   ///< [T, channels]
    Rows z;     ///< [T, values]
    Rows a, b;  ///< [T, num_value_heads]
    const Batch* batch = nullptr;
    LayerCache cache;
    Rows y;  ///< [T, values]; rows of padding are not written
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
