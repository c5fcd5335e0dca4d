// MiMo-V2-Flash: grouped-query attention whose values are narrower than its keys and scaled, over
// windows with sinks and over all keys, each kind with heads and a rotary embedding of its own; a
// dense layer, then experts chosen by sigmoid scores and a correction bias.
#include "models/architecture.h"
#include "models/common_settings.h"
#include "models/deepseek_settings.h"

namespace moe4 {
namespace {

constexpr double kMaxTheta = 1e15;

// null is 1; what the file leaves out is the makers' constant.
float read_value_scale(const ConfigReader& c) {
  if (c.is_null("attention_value_scale")) return 1.0f;
  return static_cast<float>(c.number({"attention_value_scale"}, 0.707, 1e-6, 1e6));
}

// As transformers reads it: so many keys before the token, or so many with it.
int64_t read_window(const ConfigReader& c) {
  const int64_t with_own = c.size({"sliding_window"}, 129);
  return c.has("sliding_window_size") ? c.size({"sliding_window_size"}) + 1 : with_own;
}

struct Attentions {
  AttentionSpec full, window;
};

Attentions read_attentions(const ConfigReader& c, Builder& b) {
  AttentionSpec full{.num_heads = c.size({"num_attention_heads"}),
                     .head_dim = c.size({"head_dim"}, 192),
                     .value_width = c.size({"v_head_dim"}, 128),
                     .value_scale = read_value_scale(c),
                     .sinks_name = "attention_sink_bias"};
  full.num_kv_heads = c.size({"num_key_value_heads"}, full.num_heads);
  AttentionSpec window = full;
  window.num_heads = c.size({"swa_num_attention_heads"}, full.num_heads);
  window.num_kv_heads = c.size({"swa_num_key_value_heads"}, 2 * full.num_kv_heads);
  window.head_dim = c.size({"swa_head_dim"}, full.head_dim);
  window.value_width = c.size({"swa_v_head_dim"}, full.value_width);
  window.window = read_window(c);
  full.sinks = c.flag({"add_full_attention_sink_bias"}, false);
  window.sinks = c.flag({"add_swa_attention_sink_bias"}, true);
  c.require_multiple("num_attention_heads", full.num_heads, full.num_kv_heads);
  c.require_multiple("swa_num_attention_heads", window.num_heads, window.num_kv_heads);
  for (AttentionSpec* spec : {&full, &window}) {
    if (spec->value_width > spec->head_dim) {
      c.refuse("v_head_dim", "at most a head's " + std::to_string(spec->head_dim),
               std::to_string(spec->value_width));
    }
    const bool is_full = spec == &full;
    RotarySpec rotary =
        read_rotary(c, {.head_dim = spec->head_dim,
                        .theta = is_full ? 5e6 : 1e4,
                        .partial_rotary_factor = 0.334,
                        .layer_type = is_full ? "full_attention" : "sliding_attention"});
    if (!is_full) rotary.theta = c.number({"swa_rope_theta"}, rotary.theta, 1e-3, kMaxTheta);
    spec->rotary = b.rotary(rotary);
    spec->rotary_dim = rotary.dim;
  }
  c.disregard({"attention_chunk_size"});  // of the makers' kernels for windows
  return {full, window};
}

MoeSpec read_moe(const ConfigReader& c, const ActivationParams& activation) {
  c.require("n_shared_experts", 0.0);
  return {
      .router = read_deepseek_router(c, {.scaling_factor = 1.0, .num_groups = 1, .topk_groups = 1}),
      .intermediate_size = c.size({"moe_intermediate_size"}),
      .activation = activation,
      .correction_bias = "gate.e_score_correction_bias"};
}

bool is_window(const ConfigReader& c, int64_t layer) {
  const bool usual = layer > 0 && (layer + 1) % 6 != 0;
  const bool marked = c.layer_flag(layer, "hybrid_layer_pattern", usual);
  return c.layer_type(layer, {"sliding_attention", "full_attention"},
                      marked ? "sliding_attention" : "full_attention") == "sliding_attention";
}

void build(const ConfigReader& c, Builder& b) {
  const NormSpec norm{
      .eps = static_cast<float>(c.number({"rms_norm_eps", "layernorm_epsilon"}, 1e-5, 0.0, 1.0))};
  b.embedding("embed_tokens", c.size({"vocab_size"}), c.size({"hidden_size"}));
  const Attentions attentions = read_attentions(c, b);
  const BiasRule bias = c.bias({"attention_bias"});
  const ActivationParams activation = read_activation(c);
  const MoeSpec moe = read_moe(c, activation);
  const DenseMlpSpec dense{.intermediate_size = c.size({"intermediate_size"}),
                           .activation = activation};

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    const bool routed = c.layer_flag(i, "moe_layer_freq", is_routed_layer(c, i, /*num_dense=*/1));
    b.layer({.mixer_norm = at + "input_layernorm",
             .mixer = b.attention(at + "self_attn",
                                  is_window(c, i) ? attentions.window : attentions.full, bias),
             .feed_forward_norm = at + "post_attention_layernorm",
             .feed_forward = routed ? b.moe(at + "mlp", moe) : b.dense_mlp(at + "mlp", dense),
             .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"mimo_v2_flash"};

}  // namespace

extern const Architecture kMimoV2Flash{kModelTypes, build};

}  // namespace moe4
