// Qwen3-MoE: grouped-query attention with normalised queries and keys, routed experts in every
// layer that is not listed as dense.
#include "layers/attention.h"
#include "models/loader.h"

namespace moe4 {

DecoderParts load_qwen3_moe(ModelLoader& loader) {
  const ModelConfig& c = loader.config();
  DecoderParts parts = loader.begin();
  const int64_t q_width = c.num_attention_heads * c.head_dim;
  const int64_t kv_width = c.num_key_value_heads * c.head_dim;
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    const auto name = [&](const char* suffix) {
      return loader.name(layer, std::string("self_attn.") + suffix);
    };
    AttentionWeights weights{.q_proj = loader.linear(name("q_proj"), q_width, c.hidden_size),
                             .k_proj = loader.linear(name("k_proj"), kv_width, c.hidden_size),
                             .v_proj = loader.linear(name("v_proj"), kv_width, c.hidden_size),
                             .o_proj = loader.linear(name("o_proj"), c.hidden_size, q_width),
                             .q_norm = loader.norm(name("q_norm.weight"), c.head_dim),
                             .k_norm = loader.norm(name("k_norm.weight"), c.head_dim)};
    const AttentionShape shape{.hidden_size = c.hidden_size,
                               .num_heads = c.num_attention_heads,
                               .num_kv_heads = c.num_key_value_heads,
                               .head_dim = c.head_dim};
    loader.finish_layer(parts, layer,
                        std::make_unique<Attention>(shape, parts.rotary, std::move(weights)));
  }
  return parts;
}

}  // namespace moe4
