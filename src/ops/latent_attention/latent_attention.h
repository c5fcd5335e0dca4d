// LatentAttention: causal softmax attention whose keys and values are one low-rank latent a token.
#pragma once

#include "moe/weights.h"
#include "ops/attention/query_temperature.h"
#include "ops/batch.h"
#include "ops/op.h"

namespace moe4 {

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) from projected queries
/// to the input of the output projection. With the row [c_j | k_rope_j] that LatentToCache keeps of
/// position j, and kv_b = per head h the rows [W_k (nope_dim) | W_v (value_dim)], for token t and
/// the keys j in [0, positions[t]]:
///   [q_nope | q_rope] = q[t, h]
///   p_j = softmax_j(scale * (q_nope . W_k c_j + rotate(q_rope) . k_rope_j))
///   y[t, h] = sum_j p_j W_v c_j
/// rotate() turns elements 2i and 2i + 1 by angle i, as the cached k_rope is. `scale` is all that
/// multiplies scores: (nope_dim + rope_dim)^-0.5, times the square of YaRN's correction where the
/// model has one; and the temperature of the token's position, where the model has that.
///
/// The op's borders are a GPU's: W_k and W_v stay with the attention, since keys and values are
/// never expanded. "Absorbed", the same sums in another order, all heads share one key of
/// latent_dim + rope_dim and its first latent_dim elements as their value:
///   p_j = softmax_j(scale * ([W_k^T q_nope | rotate(q_rope)] . [c_j | k_rope_j]))
///   y[t, h] = W_v (sum_j p_j c_j)
/// With num_chosen, the keys j are those that ChooseKeys lists for the token alone.
/// Rows of y that belong to no sequence (padding) mean nothing.
/// Rows are float32; on a GPU q and y may be BF16 too, each of its own. There the products with
/// W_k and W_v are of pairs of BF16 numbers (16 significant bits; a BF16 kv_b and BF16 rows are
/// exact), and attention rounds as PagedAttention does.
struct LatentAttention {
  static constexpr std::string_view kName = "latent_attention";
  struct Problem {
    int64_t num_heads = 0;
    int64_t nope_dim = 0;    ///< qk_nope_head_dim
    int64_t rope_dim = 0;    ///< qk_rope_head_dim, even
    int64_t latent_dim = 0;  ///< kv_lora_rank
    int64_t value_dim = 0;   ///< v_head_dim
    float scale = 1.0f;
    QueryTemperature temperature;
    int64_t num_chosen = 0;           ///< entries a token of Args::chosen; 0: all keys
    DType cache_dtype = DType::kF16;  ///< or kF32; of LatentToCache's rows

    int64_t q_width() const { return num_heads * (nope_dim + rope_dim); }
    int64_t y_width() const { return num_heads * value_dim; }
  };
  struct Weights {
    /// [num_heads * (nope_dim + value_dim), latent_dim] in any format, without a bias. Decoded when
    /// prepared: BF16 stays so, everything else becomes float32.
    LinearWeights kv_b;
  };
  struct Args {
    Rows q;       ///< [T, q_width]
    Rows angles;  ///< [T, rope_dim], see RotaryAngles
    const Batch* batch = nullptr;
    LayerCache cache;
    /// [T, num_chosen]: as many positions as ChooseKeys gives a token, min(positions[t] + 1,
    /// num_chosen), rising, the token's own at most; then -1. Not read where num_chosen is 0.
    const int32_t* chosen = nullptr;
    Rows y;  ///< [T, y_width]; may not alias q
  };
  static void check(const Problem& problem, const Args& args);
};

/// kv_b as rows of plain numbers.
struct PlainMatrix {
  DType dtype = DType::kF32;  ///< or kBF16
  int64_t columns = 0;
  std::vector<std::byte> data;

  const std::byte* row(int64_t i) const { return data.data() + i * columns * size_of(dtype); }
};

/// Decodes exactly. Throws Error(kBadInput) naming the tensor for other sizes, a bias, or weights
/// that are no numbers.
PlainMatrix decode_kv_b(const LatentAttention::Problem& problem, const LinearWeights& kv_b);

}  // namespace moe4
