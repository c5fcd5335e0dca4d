// GLM-4.5, 4.6, 4.7 and Air: grouped-query attention that turns half of each head, with biases of
// queries, keys and values, and in the large models their norms; some dense layers, then experts
// chosen by sigmoid scores and a correction bias beside a shared one.
#include "models/architecture.h"
#include "models/common_settings.h"
#include "models/deepseek_settings.h"

namespace moe4 {
namespace {

void build(const ConfigReader& c, Builder& b) {
  const int64_t hidden = c.size({"hidden_size"});
  const NormSpec norm = read_norm(c, 1e-5);
  b.embedding("embed_tokens", c.size({"vocab_size"}), hidden);

  AttentionSpec attention = read_heads(c, hidden);
  const RotarySpec rotary =
      read_rotary(c, {.head_dim = attention.head_dim, .partial_rotary_factor = 0.5});
  if (c.flag({"use_qk_norm"}, false)) attention.norm = norm;
  attention.rotary = b.rotary(rotary);
  attention.rotary_dim = rotary.dim;
  const BiasRule bias = c.bias({"attention_bias"});  // never of o_proj

  const ActivationParams activation = read_activation(c);
  const MoeSpec moe =
      read_deepseek_moe(c, activation, {.scaling_factor = 1.0, .num_groups = 1, .topk_groups = 1});
  const DenseMlpSpec dense{.intermediate_size = c.size({"intermediate_size"}, 10944),
                           .activation = activation};
  const int64_t num_dense = c.integer({"first_k_dense_replace"}, 0, 1 << 20, 1);

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    b.layer(
        {.mixer_norm = at + "input_layernorm",
         .mixer = b.attention(at + "self_attn", attention, bias, {.key = "", .there = false}),
         .feed_forward_norm = at + "post_attention_layernorm",
         .feed_forward = i < num_dense ? b.dense_mlp(at + "mlp", dense) : b.moe(at + "mlp", moe),
         .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"glm4_moe"};

}  // namespace

extern const Architecture kGlm4Moe{kModelTypes, build};

}  // namespace moe4
