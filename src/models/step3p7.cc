// Step-3.5 and 3.7: grouped-query attention over windows and over all keys, each kind with heads
// and a rotary embedding of its own, a sigmoid gate a head; some dense layers, then experts chosen
// by sigmoid scores and a correction bias beside a shared one; near the end products are clamped
// behind their activation. Norms multiply by 1 + w. Lists go on for the draft layers.
#include <nlohmann/json.hpp>

#include "models/architecture.h"
#include "models/common_settings.h"
#include "models/deepseek_settings.h"

namespace moe4 {
namespace {

bool is_window(const ConfigReader& c, int64_t layer) {
  return c.layer_type(layer, {"sliding_attention", "full_attention"}, "full_attention") ==
         "sliding_attention";
}

// rope_theta and partial_rotary_factors may have an entry a layer, the same for all of a kind;
// rope_scaling is of layers without a window.
RotarySpec read_rotary_of(const ConfigReader& c, int64_t head_dim, bool window) {
  RotaryDefaults defaults{.head_dim = head_dim,
                          .layer_type = window ? "sliding_attention" : "full_attention"};
  if (c.json().object("rope_parameters")) return read_rotary(c, defaults);
  Json own = Json::object();
  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    if (is_window(c, i) != window) continue;
    const std::array<std::pair<const char*, double>, 2> settings = {
        {{"rope_theta", 10000.0}, {"partial_rotary_factors", 1.0}}};
    for (const auto& [key, otherwise] : settings) {
      const double value = c.layer_number(i, key, otherwise);
      const char* name = key == settings[0].first ? "rope_theta" : "partial_rotary_factor";
      if (own.contains(name) && own[name] != value) {
        c.refuse(key, "one number for all layers of a kind", std::to_string(value));
      }
      own[name] = value;
    }
  }
  for (const char* key : {"rope_scaling", "max_position_embeddings"}) {
    const Json* value = c.has(key) ? c.json().get(key) : nullptr;
    if (value != nullptr && (!window || std::string_view(key) != "rope_scaling")) own[key] = *value;
  }
  return read_rotary_spec(JsonReader(own, c.json().file()), defaults);
}

struct Attentions {
  AttentionSpec full, window;
};

Attentions read_attentions(const ConfigReader& c, const NormSpec& norm, Builder& b) {
  AttentionSpec full{.num_heads = c.size({"num_attention_heads"}),
                     .head_dim = c.size({"head_dim"}, 128),
                     .output_gate = OutputGate::kSigmoidPerHead,
                     .norm = norm};
  full.num_kv_heads = c.size({"num_attention_groups", "num_key_value_heads"}, full.num_heads);
  c.require("query_pre_attn_scalar", static_cast<double>(full.head_dim));
  c.require("use_head_wise_attn_gate", true);
  c.require("gating", true);
  c.require("use_qk_norm", true);
  AttentionSpec window = full;
  window.window = c.has("sliding_window") ? c.size({"sliding_window"}) : 0;
  window.num_heads = c.size({"num_sliding_attention_heads"}, full.num_heads);
  if (c.has("attention_other_setting")) {
    const JsonReader other = *c.json().object("attention_other_setting");
    window.num_heads = other.size({"num_attention_heads"}, window.num_heads);
    window.num_kv_heads = other.size({"num_attention_groups"}, window.num_kv_heads);
    window.head_dim = other.size({"head_dim"}, window.head_dim);
  }
  for (AttentionSpec* spec : {&full, &window}) {
    c.require_multiple("num_attention_heads", spec->num_heads, spec->num_kv_heads);
    const RotarySpec rotary = read_rotary_of(c, spec->head_dim, spec == &window);
    spec->rotary = b.rotary(rotary);
    spec->rotary_dim = rotary.dim;
  }
  return {full, window};
}

// `activation` with the limit that a list has for the layer; 0 and null: none.
ActivationParams with_limit(const ConfigReader& c, int64_t layer, const char* key,
                            ActivationParams activation) {
  const double limit = c.layer_number(layer, key, 0.0);
  if (limit == 0) return activation;
  if (activation.kind != ActivationKind::kSilu || limit < 0) {
    c.refuse(key, "limits of silu that are positive", std::to_string(limit));
    return activation;
  }
  activation.kind = ActivationKind::kSiluLateClamp;
  activation.limit = static_cast<float>(limit);
  return activation;
}

MoeSpec read_moe(const ConfigReader& c) {
  c.require("moe_router_activation", {"sigmoid"});
  c.require("use_moe_router_bias", true);
  c.require("norm_expert_weight", true);
  const auto scale = c.number({"moe_router_scaling_factor"}, 1.0, 1e-6, 1e6);
  return {.router = {.scoring = ScoringFunction::kSigmoid,
                     .num_experts = c.size({"moe_num_experts", "n_routed_experts"}, 288),
                     .top_k = c.size({"moe_top_k", "num_experts_per_tok"}, 8),
                     .scaling_factor = static_cast<float>(scale)},
          .intermediate_size = c.size({"moe_intermediate_size"}, 1280),
          .shared = {.intermediate_size = c.size({"share_expert_dim", "share_expert_dims"}, 1280),
                     .module = "share_expert"},
          .gate = "moe.gate",
          .correction_bias = "moe.router_bias",
          .experts = "moe"};
}

void build(const ConfigReader& c, Builder& b) {
  NormSpec norm = read_norm(c, 1e-5);
  norm.one_plus = true;
  c.require("zero_centered", true);
  b.embedding("embed_tokens", c.size({"vocab_size"}), c.size({"hidden_size"}));
  const Attentions attentions = read_attentions(c, norm, b);
  const BiasRule bias = c.bias({"attention_bias"}), mlp_bias = c.bias({"mlp_bias"});
  const ActivationParams activation = read_activation(c);
  MoeSpec moe = read_moe(c);
  DenseMlpSpec dense{.intermediate_size = c.size({"intermediate_size"}, 11264), .bias = mlp_bias};

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string layer = "layers." + std::to_string(i), at = layer + ".";
    moe.activation = with_limit(c, i, "swiglu_limits", activation);
    moe.shared.activation = with_limit(c, i, "swiglu_limits_shared", activation);
    dense.activation = moe.shared.activation;
    const bool routed =
        c.has("moe_layers_enum") ? c.lists("moe_layers_enum", i) : is_routed_layer(c, i, 3);
    b.layer(
        {.mixer_norm = at + "input_layernorm",
         .mixer = b.attention(at + "self_attn",
                              is_window(c, i) ? attentions.window : attentions.full, bias, bias),
         .feed_forward_norm = at + "post_attention_layernorm",
         .feed_forward = routed ? b.moe(layer, moe) : b.dense_mlp(at + "mlp", dense),
         .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"step3p7", "step3p5", "step3p7_text"};

}  // namespace

extern const Architecture kStep3p7{kModelTypes, build};

}  // namespace moe4
