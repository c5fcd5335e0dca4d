// Multi-head latent attention: down projections, latents in the cache, attention over them, output
// projection.
#pragma once

#include <memory>
#include <optional>

#include "layers/mixer.h"
#include "ops/choose_keys/choose_keys.h"
#include "ops/index_to_cache/index_to_cache.h"
#include "ops/latent_attention/latent_attention.h"
#include "ops/latent_to_cache/latent_to_cache.h"
#include "ops/linear/linear_group.h"

namespace moe4 {

/// Which keys a token attends to: so many as an indexer chooses (DeepSeek sparse attention).
struct KeyIndexSpec {
  int64_t num_heads = 0;
  int64_t dim = 0;
  int64_t most = 0;
  bool rotates_pairs = false;
  /// There is no indexer: the choice of the last layer that has one holds.
  bool is_shared = false;
};

struct LatentAttentionSpec {
  int64_t num_heads = 0;
  int64_t q_latent_dim = 0;  ///< q_lora_rank; 0: queries are one projection of the hidden states
  int64_t latent_dim = 0;    ///< kv_lora_rank
  int64_t nope_dim = 0;      ///< qk_nope_head_dim
  int64_t rope_dim = 0;      ///< qk_rope_head_dim
  int64_t value_dim = 0;     ///< v_head_dim
  NormSpec norm;             ///< of the latents
  float scale = 1.0f;        ///< of the scores, see LatentAttention
  QueryTemperature temperature;  ///< of the scores, by position
  size_t rotary = 0;             ///< which of the model's rotary embeddings turns queries and keys
  std::optional<KeyIndexSpec> index;  ///< none: all keys
  DType cache_dtype = DType::kF16;

  bool has_indexer() const { return index && !index->is_shared; }
  IndexToCache::Problem index_to_cache() const;  ///< with an indexer
  ChooseKeys::Problem choose_keys() const;       ///< likewise
  LatentToCache::Problem latent_to_cache() const;
  LatentAttention::Problem attention() const;
};

struct LatentAttentionParts {
  /// q_a and kv_a, or q and kv_a where queries have no latent; the indexer's keys and weights.
  std::unique_ptr<Prepared<LinearGroup>> inputs;
  std::unique_ptr<Prepared<LatentToCache>> latent_to_cache;  ///< of spec.latent_to_cache()
  /// Queries, and those of the indexer; null without a query latent.
  std::unique_ptr<Prepared<LinearGroup>> q_b;
  std::unique_ptr<Prepared<IndexToCache>> index_to_cache;  ///< null without an indexer
  std::unique_ptr<Prepared<ChooseKeys>> choose_keys;       ///< likewise
  std::unique_ptr<Prepared<LatentAttention>> attention;    ///< of spec.attention()
  std::unique_ptr<Prepared<LinearGroup>> o_proj;
};

class LatentAttentionMixer final : public Mixer {
 public:
  LatentAttentionMixer(const LatentAttentionSpec& spec, LatentAttentionParts parts);

  /// The latents'; the indexer's keys.
  std::vector<CacheSpec> caches() const override;
  void forward(const LayerStep& step, const Rows& x, std::span<const LayerCache> caches,
               const Rows& y) const override;
  int64_t weight_bytes() const override;

 private:
  void choose(const LayerStep& step, const Rows& q_index, const Rows& k_index, const Rows& weights,
              const LayerCache& cache) const;

  LatentAttentionSpec spec_;
  LatentAttentionParts parts_;
};

}  // namespace moe4
