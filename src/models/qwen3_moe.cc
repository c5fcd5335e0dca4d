// Qwen3-MoE and the text model of Qwen3-VL-MoE: grouped-query attention with normalised queries and
// keys, routed experts in every layer that is not listed as dense.
#include "models/architecture.h"
#include "models/common_settings.h"

namespace moe4 {
namespace {

void build_with(const ConfigReader& c, Builder& b, bool renormalize) {
  const int64_t hidden = c.size({"hidden_size"});
  const NormSpec norm = read_norm(c);
  b.embedding("embed_tokens", c.size({"vocab_size"}), hidden);

  AttentionSpec attention = read_heads(c, hidden);
  const RotarySpec rotary = read_rotary(c, {.head_dim = attention.head_dim});
  attention.norm = norm;
  attention.rotary = b.rotary(rotary);
  attention.rotary_dim = rotary.dim;
  const BiasRule attention_bias = c.bias({"attention_bias", "qkv_bias", "use_qkv_bias"});
  // Without the switch a window is only a number.
  if (!c.flag({"use_sliding_window"}, false)) c.disregard({"sliding_window"});

  const ActivationParams activation = read_activation(c);
  const MoeSpec moe{.router = {.num_experts = c.size({"num_experts", "num_local_experts"}),
                               .top_k = c.size({"num_experts_per_tok"}),
                               .renormalize = renormalize},
                    .intermediate_size = c.size({"moe_intermediate_size"}),
                    .activation = activation};
  const DenseMlpSpec dense{.intermediate_size = c.size({"intermediate_size"}, 6144),
                           .activation = activation,
                           .bias = c.bias({"mlp_bias"})};
  const int64_t step = c.size({"decoder_sparse_step"}, 1);

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    c.layer_type(i, {"full_attention"}, "full_attention");
    const bool routed = (i + 1) % step == 0 && !c.lists("mlp_only_layers", i);
    b.layer({.mixer_norm = at + "input_layernorm",
             .mixer = b.attention(at + "self_attn", attention, attention_bias),
             .feed_forward_norm = at + "post_attention_layernorm",
             .feed_forward = routed ? b.moe(at + "mlp", moe) : b.dense_mlp(at + "mlp", dense),
             .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings());
}

void build(const ConfigReader& c, Builder& b) {
  build_with(c, b, c.flag({"norm_topk_prob"}, false));
}

// Weights are always divided by their sum; features of images alone are added between layers.
void build_vl(const ConfigReader& c, Builder& b) {
  c.require("norm_topk_prob", true);
  build_with(c, b, true);
}

constexpr std::string_view kModelTypes[] = {"qwen3_moe"};
constexpr std::string_view kVlModelTypes[] = {"qwen3_vl_moe_text", "qwen3_vl_moe"};

}  // namespace

extern const Architecture kQwen3Moe{kModelTypes, build};
extern const Architecture kQwen3VlMoe{kVlModelTypes, build_vl};

}  // namespace moe4
