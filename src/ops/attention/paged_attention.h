// PagedAttention: causal grouped-query softmax attention over cached keys and values, of all
// positions, a window or a chunk.
#pragma once

#include "ops/batch.h"
#include "ops/op.h"
#include "ops/tensor_ref.h"

namespace moe4 {

/// What multiplies the result of attention.
enum class OutputGate : uint8_t {
  kNone,
  kSigmoidBesideQuery,  ///< sigmoid of gates that lie behind each head's query: [query | gate]
  kSigmoidPerHead,      ///< sigmoid of one gate a head
  kSoftplusPerHead,     ///< ln(1 + exp(gate)) of one gate a head
  kSoftplusPerElement,  ///< the same of one gate an element of a head
};

/// For token t of sequence s and head h, with kv head h / (num_heads / num_kv_heads), and keys j <=
/// positions[t], with a window those with positions[t] - j < window alone (so many with the token's
/// own), with chunks those in the token's own run of `chunk` positions alone (j / chunk ==
/// positions[t] / chunk):
///   p_j = exp(scale * query . key_j) / (sum_j exp(scale * query . key_j) + exp(sink[h]))
///   y[t, h] = value_scale * sum_j p_j value_j
/// without the last term where there are no sinks: a sink takes part of the weight, is not scaled
/// and has no value. With num_chosen, the keys j are those that Args::chosen lists for the token
/// alone, or, with a block_size, those of the blocks that it lists for the token and its kv head:
/// with j / block_size among them. With an output gate, y[t, h] is multiplied by what that makes of
/// the gates.
/// Keys and values of the step's own tokens are in the cache already (QkvToCache). Rows of y that
/// belong to no sequence (padding) are not written.
/// Rows are float32; on a GPU gates and y may be BF16 too, each of its own. There the scaled
/// queries and the weights (relative to the largest of 64 keys) are rounded to F16 for the tensor
/// cores, everything else is float32.
struct PagedAttention {
  static constexpr std::string_view kName = "paged_attention";
  struct Problem {
    int64_t num_heads = 0;
    int64_t num_kv_heads = 0;  ///< divides num_heads
    int64_t head_dim = 0;
    /// Not 0: a value is the first latent_dim elements of its key, and the cache holds keys alone
    /// (latent attention in its absorbed form).
    int64_t latent_dim = 0;
    int64_t value_width = 0;  ///< of a value in the cache, at most head_dim; 0: head_dim
    float scale = 1.0f;
    float value_scale = 1.0f;
    int64_t window = 0;  ///< 0: all keys
    int64_t chunk = 0;   ///< 0: none; not beside a window
    int64_t num_chosen =
        0;  ///< entries of a list of Args::chosen; 0: all keys; not beside those two
    int64_t block_size = 0;  ///< keys of an entry that is a block of them; 0: entries are keys
    bool sinks = false;
    OutputGate output_gate = OutputGate::kNone;
    DType cache_dtype = DType::kF16;  ///< or kF32, kF8E4M3
    /// kF8E4M3: a key, a value is what is cached times this.
    float k_scale = 1.0f, v_scale = 1.0f;

    int64_t value_dim() const {
      return latent_dim > 0 ? latent_dim : value_width > 0 ? value_width : head_dim;
    }
    /// Whether lists of chosen are of blocks.
    bool chooses_blocks() const { return num_chosen > 0 && block_size > 0; }
    /// The first key that a token at `position` sees.
    int64_t first_key(int64_t position) const {
      if (chunk > 0) return position / chunk * chunk;
      return window > 0 && position >= window ? position + 1 - window : 0;
    }
    /// Width of a row of gates; of kSigmoidBesideQuery it is that of the queries with them.
    int64_t gate_width() const {
      switch (output_gate) {
        case OutputGate::kNone:
          return 0;
        case OutputGate::kSigmoidBesideQuery:
          return 2 * num_heads * value_dim();
        case OutputGate::kSigmoidPerHead:
        case OutputGate::kSoftplusPerHead:
          return num_heads;
        case OutputGate::kSoftplusPerElement:
          return num_heads * value_dim();
      }
      return 0;
    }
    PagedSpec cache() const {
      return {.num_kv_heads = num_kv_heads,
              .key_dim = head_dim,
              .value_dim = latent_dim > 0 ? 0 : value_dim(),
              .dtype = cache_dtype,
              .window = window};
    }
  };
  struct Weights {
    TensorRef sinks;  ///< [num_heads], finite; not read without Problem::sinks
  };
  struct Args {
    Rows queries;  ///< [T, num_heads * head_dim]
    Rows gates;    ///< [T, gate_width], in the order of heads; empty without a gate
    const Batch* batch = nullptr;
    LayerCache cache;
    /// [T, num_chosen]: the min(positions[t] + 1, num_chosen) positions that a token sees, rising;
    /// then anything. Of blocks [T, num_kv_heads, num_chosen]: min(positions[t] / block_size + 1,
    /// num_chosen) of them, rising, the token's own at most. Not read where num_chosen is 0.
    const int32_t* chosen = nullptr;
    Rows y;  ///< [T, num_heads * value_dim]; may not alias queries
  };
  static void check(const Problem& problem, const Args& args);
};

/// The sinks as float32, empty where the problem has none. Throws Error(kBadInput) naming the
/// tensor when it has another shape or a value that is no finite number.
std::vector<float> sink_values(const PagedAttention::Problem& problem,
                               const PagedAttention::Weights& weights);

}  // namespace moe4
