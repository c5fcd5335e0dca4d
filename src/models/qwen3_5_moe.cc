// Qwen3.5-MoE and Qwen3.6-MoE text models: gated delta net in most layers, gated attention with
// partial rotary in the others, a shared expert with a sigmoid gate, norms that multiply by 1 + w.
#include "models/loader.h"

namespace moe4 {

DecoderParts load_qwen3_5_moe(ModelLoader& loader) {
  const ModelConfig& c = loader.config();
  DecoderParts parts = loader.begin();
  const AttentionSpec attention{.num_heads = c.num_attention_heads,
                                .num_kv_heads = c.num_key_value_heads,
                                .head_dim = c.head_dim,
                                .output_gate = c.attn_output_gate,
                                .norm = loader.norm_spec(),
                                .rotary_dim = parts.rotaries.front()->problem().dim,
                                .cache_dtype = loader.cache_dtype()};
  // The delta net's output norm multiplies by w, whatever the model's other norms do.
  const DeltaNet::Problem delta_net{.num_key_heads = c.linear_num_key_heads,
                                    .num_value_heads = c.linear_num_value_heads,
                                    .key_dim = c.linear_key_head_dim,
                                    .value_dim = c.linear_value_head_dim,
                                    .conv_taps = c.linear_conv_kernel_dim,
                                    .norm = {.eps = c.rms_norm_eps}};
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    if (c.layer_kinds.at(layer) == LayerKind::kFullAttention) {
      loader.finish_layer(parts, layer, loader.attention(layer, attention));
      continue;
    }
    loader.require_multiple("linear_key_head_dim", delta_net.key_dim, 16);
    loader.require_multiple("linear_value_head_dim", delta_net.value_dim, 16);
    loader.finish_layer(parts, layer, loader.delta_net(layer, delta_net));
  }
  return parts;
}

}  // namespace moe4
