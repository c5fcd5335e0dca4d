// Multi-head latent attention: down projections, latents in the cache, attention over them, output
// projection.
#pragma once

#include <memory>

#include "layers/mixer.h"
#include "ops/latent_attention/latent_attention.h"
#include "ops/latent_to_cache/latent_to_cache.h"
#include "ops/linear/linear_group.h"

namespace moe4 {

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
  DType cache_dtype = DType::kF16;

  LatentToCache::Problem latent_to_cache() const;
  LatentAttention::Problem attention() const;
};

struct LatentAttentionParts {
  /// q_a and kv_a, or q and kv_a where queries have no latent.
  std::unique_ptr<Prepared<LinearGroup>> inputs;
  std::unique_ptr<Prepared<LatentToCache>> latent_to_cache;  ///< of spec.latent_to_cache()
  std::unique_ptr<Prepared<LinearGroup>> q_b;                ///< null without a query latent
  std::unique_ptr<Prepared<LatentAttention>> attention;      ///< of spec.attention()
  std::unique_ptr<Prepared<LinearGroup>> o_proj;
};

class LatentAttentionMixer final : public Mixer {
 public:
  LatentAttentionMixer(const LatentAttentionSpec& spec, LatentAttentionParts parts);

  std::vector<CacheSpec> caches() const override {
    return {parts_.latent_to_cache->problem().cache()};
  }
  void forward(const LayerStep& step, const Rows& x, std::span<const LayerCache> caches,
               const Rows& y) const override;
  int64_t weight_bytes() const override;

 private:
  LatentAttentionSpec spec_;
  LatentAttentionParts parts_;
};

}  // namespace moe4
