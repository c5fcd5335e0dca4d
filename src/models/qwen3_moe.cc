// Qwen3-MoE: grouped-query attention with normalised queries and keys, routed experts in every
// layer that is not listed as dense.
#include "models/loader.h"

namespace moe4 {

DecoderParts load_qwen3_moe(ModelLoader& loader) {
  const ModelConfig& c = loader.config();
  DecoderParts parts = loader.begin();
  const AttentionSpec spec{.num_heads = c.num_attention_heads,
                           .num_kv_heads = c.num_key_value_heads,
                           .head_dim = c.head_dim,
                           .norm = loader.norm_spec(),
                           .rotary_dim = parts.rotaries.front()->problem().dim,
                           .cache_dtype = loader.cache_dtype()};
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    loader.finish_layer(parts, layer, loader.attention(layer, spec));
  }
  return parts;
}

}  // namespace moe4
