// BlockAttention: causal grouped-query attention to the blocks of keys that an indexer chose.
#pragma once

#include "ops/batch.h"
#include "ops/op.h"

namespace moe4 {

/// PagedAttention whose head h of token t sees, of the keys j <= positions[t], those of the blocks
/// that ChooseBlocks lists for its kv head g = h / (num_heads / num_kv_heads) alone:
/// j / block_size is in chosen[t, g]. With all blocks chosen the bits are PagedAttention's. Rows of
/// y that belong to no sequence (padding) mean nothing. Rows are float32; on a GPU y may be BF16.
struct BlockAttention {
  static constexpr std::string_view kName = "block_attention";
  struct Problem {
    int64_t num_heads = 0;
    int64_t num_kv_heads = 0;  ///< divides num_heads
    int64_t head_dim = 0;
    float scale = 1.0f;
    int64_t block_size = 0;           ///< keys of a block
    int64_t num_chosen = 0;           ///< entries a token and kv head of Args::chosen
    DType cache_dtype = DType::kF16;  ///< or kF32, kF8E4M3
    /// kF8E4M3: a key, a value is what is cached times this.
    float k_scale = 1.0f, v_scale = 1.0f;

    PagedSpec cache() const {
      return {.num_kv_heads = num_kv_heads,
              .key_dim = head_dim,
              .value_dim = head_dim,
              .dtype = cache_dtype};
    }
  };
  struct Weights {};
  struct Args {
    Rows queries;  ///< [T, num_heads * head_dim]
    const Batch* batch = nullptr;
    LayerCache cache;
    /// [T, num_kv_heads, num_chosen]: as many blocks as ChooseBlocks gives a token,
    /// min(positions[t] / block_size + 1, num_chosen), rising, the token's own at most; then -1.
    const int32_t* chosen = nullptr;
    Rows y;  ///< [T, num_heads * head_dim]; may not alias queries
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
