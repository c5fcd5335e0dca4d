// Hy3: grouped-query attention with normalised queries and keys, a dense layer, then experts chosen
// by sigmoid scores and a correction bias beside a shared one.
#include "models/architecture.h"
#include "models/common_settings.h"
#include "models/deepseek_settings.h"

namespace moe4 {
namespace {

MoeSpec read_moe(const ConfigReader& c, const ActivationParams& activation) {
  c.require("moe_router_enable_expert_bias", true);
  const int64_t width = c.size({"moe_intermediate_size"});
  const auto scale = c.number({"router_scaling_factor"}, 2.826, 1e-6, 1e6);
  return {.router = {.scoring = ScoringFunction::kSigmoid,
                     .num_experts = c.size({"num_experts", "num_local_experts"}),
                     .top_k = c.size({"num_experts_per_tok"}),
                     .scaling_factor = static_cast<float>(scale)},
          .intermediate_size = width,
          .activation = activation,
          .shared = {.intermediate_size = width * c.integer({"num_shared_experts"}, 0, 1024, 1),
                     .activation = activation,
                     .module = "shared_mlp"},
          .gate = "router.gate",
          .correction_bias = "expert_bias"};
}

void build(const ConfigReader& c, Builder& b) {
  const int64_t hidden = c.size({"hidden_size"});
  const NormSpec norm = read_norm(c, 1e-5);
  b.embedding("embed_tokens", c.size({"vocab_size"}), hidden);

  AttentionSpec attention = read_heads(c, hidden, 128);
  const RotarySpec rotary = read_rotary(c, {.head_dim = attention.head_dim, .theta = 11158840});
  attention.rotary = b.rotary(rotary);
  attention.rotary_dim = rotary.dim;
  c.require("qk_norm", true);
  attention.norm = norm;
  const BiasRule attention_bias = c.bias({"attention_bias"});

  const ActivationParams activation = read_activation(c);
  const MoeSpec moe = read_moe(c, activation);
  const DenseMlpSpec dense{.intermediate_size = c.size({"intermediate_size"}, 13312),
                           .activation = activation,
                           .bias = c.bias({"mlp_bias"})};
  const int64_t num_dense = c.integer({"first_k_dense_replace"}, 0, 1 << 20, 1);

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    b.layer({.mixer_norm = at + "input_layernorm",
             .mixer = b.attention(at + "self_attn", attention, attention_bias, attention_bias),
             .feed_forward_norm = at + "post_attention_layernorm",
             .feed_forward = is_routed_layer(c, i, num_dense) ? b.moe(at + "mlp", moe)
                                                              : b.dense_mlp(at + "mlp", dense),
             .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"hy_v3"};

}  // namespace

extern const Architecture kHyV3{kModelTypes, build};

}  // namespace moe4
