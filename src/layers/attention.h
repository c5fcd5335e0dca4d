// Grouped-query softmax attention, over all keys, a window or a chunk, with what families add:
// norms of queries and keys, rotary positions, sinks, an output gate, an indexer that chooses
// blocks of keys.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "layers/mixer.h"
#include "ops/attention/paged_attention.h"
#include "ops/block_attention/block_attention.h"
#include "ops/choose_blocks/choose_blocks.h"
#include "ops/linear/linear_group.h"
#include "ops/qkv_to_cache/qkv_to_cache.h"

namespace moe4 {

/// An indexer whose heads, one a kv head, choose the blocks of keys that a token attends to
/// (MiniMax-M3): `index_{q,k}_{proj,norm}` beside the attention's own. Norm and rotation are those
/// of the attention; its keys have one head.
struct BlockIndexSpec {
  int64_t dim = 0;         ///< of its heads
  int64_t block_size = 0;  ///< keys of a block
  int64_t most = 0;        ///< blocks of a token
  int64_t local = 0;       ///< of them its own and those before it
};

struct AttentionSpec {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t value_width = 0;   ///< of a head of values, at most head_dim; 0: head_dim
  float value_scale = 1.0f;  ///< multiplies values
  int64_t window = 0;        ///< keys that a token sees with its own; 0: all
  int64_t chunk = 0;         ///< positions that see only each other; 0: all; not with a window
  float scale = 0;           ///< of scores; 0: 1 / sqrt(head_dim)
  QueryTemperature temperature;
  bool sinks = false;                ///< a learned logit a head
  std::string sinks_name = "sinks";  ///< their tensor, below the module
  /// kSigmoidBesideQuery: q_proj yields [query | gate] per head; others: `g_proj` yields the gates
  OutputGate output_gate = OutputGate::kNone;
  /// Of queries and keys, over head_dim; `q_norm` and `k_norm` where it has weights.
  std::optional<NormSpec> norm;
  bool norm_over_heads = false;        ///< over all heads together instead
  std::optional<NormSpec> value_norm;  ///< of values, over head_dim; without weights
  bool keys_are_values = false;        ///< there is no v_proj: what k_proj yields is the values
  size_t rotary = 0;                   ///< which of the model's rotary embeddings turns them
  int64_t rotary_dim = 0;              ///< 0: none does
  bool rotates_pairs = false;          ///< elements 2i and 2i + 1, not i and i + rotary_dim / 2
  /// None: all keys that the mask leaves. Not beside a window, a chunk, sinks, values of another
  /// width or an output gate.
  std::optional<BlockIndexSpec> block_index;
  DType cache_dtype = DType::kF16;
  float k_scale = 1.0f, v_scale = 1.0f;  ///< of a cache in kF8E4M3

  int64_t q_width() const { return num_heads * head_dim; }
  int64_t k_width() const { return num_kv_heads * head_dim; }
  int64_t value_dim() const { return value_width > 0 ? value_width : head_dim; }
  int64_t v_width() const { return num_kv_heads * value_dim(); }
  int64_t o_width() const { return num_heads * value_dim(); }  ///< of what o_proj reads
  bool gates_beside_queries() const { return output_gate == OutputGate::kSigmoidBesideQuery; }
  /// Whether the gates have a projection of their own.
  bool has_gate_proj() const { return output_gate != OutputGate::kNone && !gates_beside_queries(); }
  QkvToCache::Problem qkv_to_cache() const;
  PagedAttention::Problem attention() const;
  // With a block index.
  /// Keys that decide what is seen are not rounded to 8 bits.
  DType index_cache_dtype() const {
    return cache_dtype == DType::kF8E4M3 ? DType::kF16 : cache_dtype;
  }
  QkvToCache::Problem index_to_cache() const;
  ChooseBlocks::Problem choose_blocks() const;
  BlockAttention::Problem block_attention() const;
};

struct AttentionParts {
  /// q, k, v where there is one; the gates where they are apart; the indexer's q and k
  std::unique_ptr<Prepared<LinearGroup>> qkv_proj;
  std::unique_ptr<Prepared<QkvToCache>> qkv_to_cache;   ///< of spec.qkv_to_cache()
  std::unique_ptr<Prepared<PagedAttention>> attention;  ///< of spec.attention(); or null, and
  // Of a block index: for its queries and keys, for its choice, for what then takes place.
  std::unique_ptr<Prepared<QkvToCache>> index_to_cache = nullptr;
  std::unique_ptr<Prepared<ChooseBlocks>> choose_blocks = nullptr;
  std::unique_ptr<Prepared<BlockAttention>> block_attention = nullptr;
  std::unique_ptr<Prepared<LinearGroup>> o_proj;
};

class Attention final : public Mixer {
 public:
  Attention(const AttentionSpec& spec, AttentionParts parts)
      : spec_(spec), parts_(std::move(parts)) {}

  /// Keys and values; the indexer's keys.
  std::vector<CacheSpec> caches() const override;
  void forward(const LayerStep& step, const Rows& x, std::span<const LayerCache> caches,
               const Rows& y) const override;
  int64_t weight_bytes() const override;

 private:
  void attend_to_blocks(const LayerStep& step, const Rows& queries, std::span<const Rows> index,
                        std::span<const LayerCache> caches, const Rows& y) const;

  AttentionSpec spec_;
  AttentionParts parts_;
};

}  // namespace moe4
