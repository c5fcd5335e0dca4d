// LatentToCache: from the down projections of latent attention to a normalised query latent and
// cached key-value latents.
#pragma once

#include "ops/batch.h"
#include "ops/norm/add_norm.h"
#include "ops/op.h"

namespace moe4 {

/// What multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) does between its
/// down and up projections, for every token t:
///   q_latent[t] = norm(q_latent[t]) * q_norm                  in place, where there is one
///   [c | k_rope] = kv[t];  cached row = [norm(c) * kv_norm | rotate(k_rope)]
/// norm(x) = x / sqrt(mean(x^2) + eps). rotate() turns elements 2i and 2i + 1 by angle i. The row
/// goes, rounded to the cache's dtype (F16 saturates at 65504; a row with an infinite element
/// becomes NaN), to slots[t] of the cache: page slots[t] / 64, place slots[t] % 64; slots[t] of -1
/// stores nothing.
///
/// One row a token serves all heads: as their keys, and its first latent_dim elements as their
/// values (see LatentAttention).
/// Rows are float32; on a GPU q_latent and kv may be BF16 too, each of its own.
struct LatentToCache {
  static constexpr std::string_view kName = "latent_to_cache";
  struct Problem {
    int64_t q_latent_dim = 0;         ///< q_lora_rank; 0: queries have no latent
    int64_t latent_dim = 0;           ///< kv_lora_rank
    int64_t rope_dim = 0;             ///< qk_rope_head_dim, even
    NormSpec norm;                    ///< of both latents
    DType cache_dtype = DType::kF16;  ///< or kF32

    PagedSpec cache() const {
      return {.num_kv_heads = 1,
              .key_dim = latent_dim + rope_dim,
              .value_dim = 0,
              .dtype = cache_dtype};
    }
  };
  struct Weights {
    TensorRef q_norm;   ///< [q_latent_dim]; not read without a query latent
    TensorRef kv_norm;  ///< [latent_dim]
  };
  struct Args {
    Rows q_latent;                   ///< [T, q_latent_dim], in place; empty without one
    Rows kv;                         ///< [T, latent_dim + rope_dim]; overwritten with anything
    Rows angles;                     ///< [T, rope_dim], see RotaryAngles
    const int32_t* slots = nullptr;  ///< [T]
    LayerCache cache;
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
