// Gemma-4 with experts: norms before and after every part, values that are keys in the layers
// without a window, an MLP beside the experts, soft-capped logits. Other sizes of the family share
// keys between layers and have embeddings a layer; those are refused.
#include <cmath>

#include "models/architecture.h"
#include "models/common_settings.h"
#include "numerics/bf16.h"

namespace moe4 {
namespace {

// As transformers makes it in a BF16 model, which every published file is.
float embedding_scale(int64_t hidden) {
  return to_float(to_bf16(std::sqrt(static_cast<float>(hidden))));
}

void refuse_other_sizes(const ConfigReader& c) {
  c.require("hidden_size_per_layer_input", 0.0);
  c.require("num_kv_shared_layers", 0.0);
  c.require("use_double_wide_mlp", false);
  c.require("enable_moe_block", true);
  c.require("use_bidirectional_attention", {"vision"});  // among tokens of one image
}

struct Attentions {
  AttentionSpec window, full;
};

Attentions read_attentions(const ConfigReader& c, int64_t hidden, const NormSpec& norm,
                           Builder& b) {
  AttentionSpec window = read_heads(c, hidden, 256);
  window.scale = 1.0f;
  window.norm = norm;
  window.value_norm = NormSpec{.eps = norm.eps, .has_weight = false};
  AttentionSpec full = window;
  window.window = c.size({"sliding_window"}, 512);
  const RotarySpec near =
      read_rotary(c, {.head_dim = window.head_dim, .layer_type = "sliding_attention"});
  window.rotary = b.rotary(near);
  window.rotary_dim = near.dim;

  full.head_dim = c.size({"global_head_dim"}, 512);
  full.keys_are_values = c.flag({"attention_k_eq_v"}, false);
  const int64_t kv_heads = c.size({"num_global_key_value_heads"}, window.num_kv_heads);
  if (full.keys_are_values) full.num_kv_heads = kv_heads;
  const RotarySpec far = read_rotary(c, {.head_dim = full.head_dim, .theta = 1e6});
  full.rotary = b.rotary(far);
  full.rotary_dim = far.dim;
  return {window, full};
}

MoeSpec read_experts(const ConfigReader& c, int64_t hidden, const NormSpec& norm,
                     const ActivationParams& activation) {
  MoeSpec spec;
  spec.router.num_experts = c.size({"num_experts"});
  spec.router.top_k = c.size({"top_k_experts", "num_experts_per_tok"});
  spec.intermediate_size = c.size({"moe_intermediate_size", "expert_intermediate_size"});
  spec.activation = activation;
  spec.gate = "router.proj";
  spec.expert_scale = "router.per_expert_scale";
  spec.router_norm = "router.scale";
  spec.router_norm_spec = norm;
  spec.router_norm_spec.factor = 1.0f / std::sqrt(static_cast<float>(hidden));
  spec.experts_norm = "pre_feedforward_layernorm_2.weight";
  spec.experts_norm_spec = norm;
  return spec;
}

void build(const ConfigReader& c, Builder& b) {
  const int64_t hidden = c.size({"hidden_size"});
  const NormSpec norm = read_norm(c);
  b.embedding("embed_tokens", c.size({"vocab_size"}), hidden, embedding_scale(hidden));
  refuse_other_sizes(c);
  const Attentions attentions = read_attentions(c, hidden, norm, b);
  const BiasRule bias = c.bias({"attention_bias"});
  const ActivationParams activation = read_activation(c);
  ParallelMoeSpec moe;
  moe.norm = norm;
  moe.mlp.intermediate_size = c.size({"intermediate_size"});
  moe.mlp.activation = activation;
  moe.moe = read_experts(c, hidden, norm, activation);

  const int64_t layers = c.size({"num_hidden_layers"});
  for (int64_t i = 0; i < layers; ++i) {
    const std::string layer = "layers." + std::to_string(i), at = layer + ".";
    const bool is_full =
        c.layer_type(i, {"sliding_attention", "full_attention"},
                     (i + 1) % 6 != 0 ? "sliding_attention" : "full_attention") == "full_attention";
    moe.mlp_norm = at + "post_feedforward_layernorm_1";
    moe.moe_norm = at + "post_feedforward_layernorm_2";
    b.layer({.mixer_norm = at + "input_layernorm",
             .mixer = b.attention(at + "self_attn", is_full ? attentions.full : attentions.window,
                                  bias, bias),
             .feed_forward_norm = at + "pre_feedforward_layernorm",
             .feed_forward = b.parallel_moe(at + "mlp", layer, moe),
             .norm = norm,
             .mixer_post_norm = at + "post_attention_layernorm",
             .feed_forward_post_norm = at + "post_feedforward_layernorm",
             .scalar = at + "layer_scalar"});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings(true),
         static_cast<float>(c.number({"final_logit_softcapping"}, 0, 0, 1e6)));
}

constexpr std::string_view kModelTypes[] = {"gemma4", "gemma4_text"};

}  // namespace

extern const Architecture kGemma4{kModelTypes, build};

}  // namespace moe4
