// DeepSeek-V4's attention: one key a token that is its own value, over a window, and keys that
// several tokens share, all of them or those that an indexer chooses; a grouped output projection.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "layers/mixer.h"
#include "ops/choose_keys/choose_keys.h"
#include "ops/compress_to_cache/compress_to_cache.h"
#include "ops/compressed_attention/compressed_attention.h"
#include "ops/linear/linear_group.h"
#include "ops/qkv_to_cache/qkv_to_cache.h"

namespace moe4 {

/// Which of the shared keys a token attends to: so many as an indexer with keys of its own chooses.
struct EntryIndexSpec {
  int64_t num_heads = 0;
  int64_t dim = 0;
  int64_t most = 0;
};

struct CompressedAttentionSpec {
  int64_t num_heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dim = 0;    ///< of the end of a head
  int64_t q_latent_dim = 0;  ///< q_lora_rank
  int64_t window = 0;
  int64_t ratio = 0;  ///< tokens of a shared key; 0: there are none
  /// A shared key is of the tokens of the one before, too.
  bool overlaps = false;
  std::optional<EntryIndexSpec> index;  ///< none: all shared keys
  int64_t num_groups = 0;               ///< o_groups, divides num_heads
  int64_t o_latent_dim = 0;             ///< o_lora_rank: of a group
  NormSpec norm;  ///< of the query latent, of keys; without weights of queries
  /// Which of the model's rotary embeddings turns queries and keys, and which the shared keys
  /// (RotarySpec::step is the ratio).
  size_t rotary = 0, entry_rotary = 0;
  DType cache_dtype = DType::kF16;

  int64_t q_width() const { return num_heads * head_dim; }
  QkvToCache::Problem qkv_to_cache() const;
  CompressToCache::Problem compress() const;        ///< with a ratio
  CompressToCache::Problem compress_index() const;  ///< with an index
  ChooseKeys::Problem choose_keys() const;          ///< likewise
  CompressedAttention::Problem attention() const;
};

struct CompressedAttentionParts {
  /// wq_a, wkv; the compressor's wkv and wgate; those of the indexer's compressor, weights_proj
  std::unique_ptr<Prepared<LinearGroup>> inputs;
  std::unique_ptr<Prepared<AddNorm>> q_norm;       ///< of the query latent
  std::unique_ptr<Prepared<LinearGroup>> queries;  ///< wq_b; the indexer's wq_b
  std::unique_ptr<Prepared<QkvToCache>> qkv_to_cache;
  std::unique_ptr<Prepared<CompressToCache>> compress;        ///< null without a ratio
  std::unique_ptr<Prepared<CompressToCache>> compress_index;  ///< null without an index
  std::unique_ptr<Prepared<ChooseKeys>> choose_keys;          ///< likewise
  std::unique_ptr<Prepared<CompressedAttention>> attention;
  std::vector<std::unique_ptr<Prepared<LinearGroup>>> group_proj;  ///< wo_a, one a group
  std::unique_ptr<Prepared<LinearGroup>> o_proj;                   ///< wo_b
};

class CompressedAttentionMixer final : public Mixer {
 public:
  CompressedAttentionMixer(const CompressedAttentionSpec& spec, CompressedAttentionParts parts)
      : spec_(spec), parts_(std::move(parts)) {}

  /// The window's keys; shared keys and their sums; both of the indexer.
  std::vector<CacheSpec> caches() const override;
  void forward(const LayerStep& step, const Rows& x, std::span<const LayerCache> caches,
               const Rows& y) const override;
  int64_t weight_bytes() const override;

 private:
  void project(const LayerStep& step, const Rows& attended, const Rows& y) const;

  CompressedAttentionSpec spec_;
  CompressedAttentionParts parts_;
};

}  // namespace moe4
