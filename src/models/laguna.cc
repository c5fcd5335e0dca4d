// Laguna: grouped-query attention over a window or over all keys, each kind with a rotary embedding
// of its own and as many heads as the layer says, its result gated by softplus; a dense layer, then
// experts chosen by sigmoid scores and a correction bias beside a shared one.
#include <nlohmann/json.hpp>

#include "models/architecture.h"
#include "models/common_settings.h"
#include "models/deepseek_settings.h"

namespace moe4 {
namespace {

OutputGate read_gate(const ConfigReader& c) {
  const Json* gating = c.has("gating") ? c.json().get("gating") : nullptr;
  if (gating == nullptr || *gating == true || *gating == "per-head") {
    return OutputGate::kSoftplusPerHead;
  }
  if (*gating != "per-element")
    c.refuse("gating", "true, per-head or per-element", describe(*gating));
  return OutputGate::kSoftplusPerElement;
}

// Heads, norms and gates of all layers, and the rotary embedding of one kind.
AttentionSpec read_attention(const ConfigReader& c, const NormSpec& norm, std::string_view kind,
                             Builder& b) {
  AttentionSpec spec = read_heads(c, c.size({"hidden_size"}), 128);
  spec.norm = norm;
  spec.output_gate = read_gate(c);
  const RotarySpec rotary =
      read_rotary(c, {.head_dim = spec.head_dim, .theta = 5e5, .layer_type = kind});
  spec.rotary = b.rotary(rotary);
  spec.rotary_dim = rotary.dim;
  return spec;
}

MoeSpec read_moe(const ConfigReader& c, const ActivationParams& activation) {
  const auto scale = c.number({"moe_routed_scaling_factor"}, 1.0, 1e-6, 1e6);
  const int64_t width = c.size({"moe_intermediate_size"});
  return {.router = {.scoring = ScoringFunction::kSigmoid,
                     .num_experts = c.size({"num_experts", "num_local_experts"}),
                     .top_k = c.size({"num_experts_per_tok"}),
                     .scaling_factor = static_cast<float>(scale)},
          .intermediate_size = width,
          .activation = activation,
          .shared = {.intermediate_size = c.size({"shared_expert_intermediate_size"}, 512),
                     .activation = activation,
                     .module = "shared_expert"},
          .correction_bias = "experts.e_score_correction_bias"};
}

void build(const ConfigReader& c, Builder& b) {
  const NormSpec norm = read_norm(c);
  b.embedding("embed_tokens", c.size({"vocab_size"}), c.size({"hidden_size"}));
  const AttentionSpec full = read_attention(c, norm, "full_attention", b);
  AttentionSpec window = read_attention(c, norm, "sliding_attention", b);
  window.window = c.size({"sliding_window"}, 512);
  const BiasRule bias = c.bias({"attention_bias"});

  const ActivationParams activation = read_activation(c);
  const MoeSpec moe = read_moe(c, activation);
  const DenseMlpSpec dense{.intermediate_size = c.size({"intermediate_size"}),
                           .activation = activation};

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    const bool is_window = c.layer_type(i, {"sliding_attention", "full_attention"},
                                        "full_attention") == "sliding_attention";
    AttentionSpec attention = is_window ? window : full;
    attention.num_heads = c.layer_size(i, "num_attention_heads_per_layer", attention.num_heads);
    c.require_multiple("num_attention_heads_per_layer", attention.num_heads,
                       attention.num_kv_heads);
    b.layer({.mixer_norm = at + "input_layernorm",
             .mixer = b.attention(at + "self_attn", attention, bias, bias),
             .feed_forward_norm = at + "post_attention_layernorm",
             .feed_forward = is_routed_layer(c, i, /*num_dense=*/1)
                                 ? b.moe(at + "mlp", moe)
                                 : b.dense_mlp(at + "mlp", dense),
             .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"laguna"};

}  // namespace

extern const Architecture kLaguna{kModelTypes, build};

}  // namespace moe4
