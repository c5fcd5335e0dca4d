// Qwen3.5-MoE and Qwen3.6-MoE text models: gated delta net in most layers, gated attention with
// partial rotary in the others, a shared expert with a sigmoid gate, norms that multiply by 1 + w.
#include "layers/attention.h"
#include "layers/delta_net.h"
#include "models/loader.h"

namespace moe4 {
namespace {

std::unique_ptr<Mixer> load_attention(ModelLoader& loader, const Rotary& rotary, int64_t layer) {
  const ModelConfig& c = loader.config();
  const auto name = [&](const char* suffix) {
    return loader.name(layer, std::string("self_attn.") + suffix);
  };
  const int64_t q_width = c.num_attention_heads * c.head_dim;
  const int64_t kv_width = c.num_key_value_heads * c.head_dim;
  const int64_t q_rows = q_width * (c.attn_output_gate ? 2 : 1);
  AttentionWeights weights{.q_proj = loader.linear(name("q_proj"), q_rows, c.hidden_size),
                           .k_proj = loader.linear(name("k_proj"), kv_width, c.hidden_size),
                           .v_proj = loader.linear(name("v_proj"), kv_width, c.hidden_size),
                           .o_proj = loader.linear(name("o_proj"), c.hidden_size, q_width),
                           .q_norm = loader.norm(name("q_norm.weight"), c.head_dim),
                           .k_norm = loader.norm(name("k_norm.weight"), c.head_dim)};
  const AttentionShape shape{.hidden_size = c.hidden_size,
                             .num_heads = c.num_attention_heads,
                             .num_kv_heads = c.num_key_value_heads,
                             .head_dim = c.head_dim,
                             .output_gate = c.attn_output_gate};
  return std::make_unique<Attention>(shape, rotary, std::move(weights));
}

std::unique_ptr<Mixer> load_delta_net(ModelLoader& loader, int64_t layer) {
  const ModelConfig& c = loader.config();
  const auto name = [&](const char* suffix) {
    return loader.name(layer, std::string("linear_attn.") + suffix);
  };
  const DeltaNetShape shape{.hidden_size = c.hidden_size,
                            .num_key_heads = c.linear_num_key_heads,
                            .num_value_heads = c.linear_num_value_heads,
                            .key_dim = c.linear_key_head_dim,
                            .value_dim = c.linear_value_head_dim,
                            .conv_taps = c.linear_conv_kernel_dim};
  loader.require_multiple("linear_key_head_dim", shape.key_dim, 16);
  loader.require_multiple("linear_value_head_dim", shape.value_dim, 16);
  const int64_t heads = shape.num_value_heads;
  DeltaNetWeights weights{
      .in_proj_qkv = loader.linear(name("in_proj_qkv"), shape.channels(), c.hidden_size),
      .in_proj_z = loader.linear(name("in_proj_z"), shape.values(), c.hidden_size),
      .in_proj_b = loader.linear(name("in_proj_b"), heads, c.hidden_size),
      .in_proj_a = loader.linear(name("in_proj_a"), heads, c.hidden_size),
      .out_proj = loader.linear(name("out_proj"), c.hidden_size, shape.values()),
      // [channels, 1, taps] in the file; the kernel walks channels side by side.
      .conv = loader.transposed(name("conv1d.weight"), shape.channels(), shape.conv_taps),
      .a_log = loader.vector(name("A_log"), heads),
      .dt_bias = loader.vector(name("dt_bias"), heads),
      .norm = loader.plain_norm(name("norm.weight"), shape.value_dim)};
  return std::make_unique<DeltaNet>(shape, std::move(weights));
}

}  // namespace

DecoderParts load_qwen3_5_moe(ModelLoader& loader) {
  const ModelConfig& c = loader.config();
  DecoderParts parts = loader.begin();
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    const bool full = c.layer_kinds.at(layer) == LayerKind::kFullAttention;
    loader.finish_layer(
        parts, layer,
        full ? load_attention(loader, parts.rotary, layer) : load_delta_net(loader, layer));
  }
  return parts;
}

}  // namespace moe4
