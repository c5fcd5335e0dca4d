// Grouped-query softmax attention with normalised queries and keys, rotary positions and an
// optional output gate.
#pragma once

#include <memory>

#include "layers/mixer.h"
#include "ops/attention/paged_attention.h"
#include "ops/linear/linear_group.h"
#include "ops/qkv_to_cache/qkv_to_cache.h"

namespace moe4 {

struct AttentionSpec {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  bool output_gate = false;  ///< q_proj yields [query | gate] per head
  NormSpec norm;             ///< of queries and keys, over head_dim
  size_t rotary = 0;         ///< which of the model's rotary embeddings turns them
  int64_t rotary_dim = 0;
  DType cache_dtype = DType::kF16;

  int64_t q_width() const { return num_heads * head_dim; }
  int64_t kv_width() const { return num_kv_heads * head_dim; }
};

struct AttentionParts {
  std::unique_ptr<Prepared<LinearGroup>> qkv_proj;  ///< q, k, v
  std::unique_ptr<Prepared<LinearGroup>> o_proj;
  TensorRef q_norm, k_norm;  ///< [head_dim]
};

class Attention final : public Mixer {
 public:
  Attention(const AttentionSpec& spec, AttentionParts parts, const OpOptions& options);

  std::vector<CacheSpec> caches() const override { return {qkv_to_cache_->problem().cache()}; }
  void forward(const LayerStep& step, const Rows& x, std::span<const LayerCache> caches,
               const Rows& y) const override;
  int64_t weight_bytes() const override;

 private:
  AttentionSpec spec_;
  std::unique_ptr<Prepared<LinearGroup>> qkv_proj_, o_proj_;
  std::unique_ptr<Prepared<QkvToCache>> qkv_to_cache_;
  std::unique_ptr<Prepared<PagedAttention>> attention_;
};

}  // namespace moe4
