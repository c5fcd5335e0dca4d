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
/// With Problem::ring > 1 generated tokens write S seldom, since half of what a step of many
/// sequences moves is states being written: S knows the tokens up to the last position that is a
/// multiple of ring, and a third array those behind it, position p at p % ring:
///   k, of unit length [key head, ring, key_dim], u = beta (v - k^T S) [value head, ring,
///   value_dim], and the logarithm of all decays since S, its own with them [value head, ring].
/// A piece of a prompt takes S to know all tokens before it (it begins at a multiple of 64) and
/// leaves zeros for those of its own that S should not know.
///
/// Rows are float32; on a GPU qkv and z (both) and y may be BF16 too. There prompts are computed in
/// chunks of 64 tokens, products in F16 with float32 sums: within 1e-3 of float64 (relative, over
/// all values), where generated tokens are within 1e-5.
struct DeltaNet {
  static constexpr std::string_view kName = "delta_net";
  static constexpr int64_t kMaxRing = 8;
  struct Problem {
    int64_t num_key_heads = 0;
    int64_t num_value_heads = 0;  ///< a multiple of num_key_heads
    int64_t key_dim = 0;          ///< of one head
    int64_t value_dim = 0;        ///< of one head
    int64_t conv_taps = 0;
    NormSpec norm;
    int64_t ring = 1;  ///< 1, or a power of two up to kMaxRing

    int64_t keys() const { return num_key_heads * key_dim; }
    int64_t values() const { return num_value_heads * value_dim; }
    int64_t channels() const { return 2 * keys() + values(); }  ///< [q | k | v], convolved
    RecurrentSpec state() const {
      RecurrentSpec spec{{(conv_taps - 1) * channels(), num_value_heads * key_dim * value_dim}};
      if (ring > 1) spec.floats.push_back(ring_floats());
      return spec;
    }
    /// cache_unit_bytes(state()), without an allocation.
    int64_t state_bytes() const {
      return (ring_offset() + round_up(ring_floats(), 16)) * static_cast<int64_t>(sizeof(float));
    }
    /// Floats from the beginning of a state to S, and to the ring.
    int64_t memory_offset() const { return round_up((conv_taps - 1) * channels(), 16); }
    int64_t ring_offset() const {
      return memory_offset() + round_up(num_value_heads * key_dim * value_dim, 16);
    }
    int64_t ring_floats() const {
      return ring > 1 ? ring * (keys() + values() + num_value_heads) : 0;
    }
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
