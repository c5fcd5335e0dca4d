// Ernie-4.5: grouped-query attention that turns neighbouring elements, experts chosen by softmax
// scores and a correction bias in a range of layers, beside shared ones.
#include "models/architecture.h"
#include "models/common_settings.h"

namespace moe4 {
namespace {

// Which layers have routed experts.
struct Layers {
  int64_t first = 0, last = 0, interval = 1;
  bool routed(int64_t i) const { return i >= first && i <= last && (i + 1) % interval == 0; }
};

Layers read_layers(const ConfigReader& c) {
  constexpr int64_t kMost = 1 << 20;
  const int64_t end = c.integer({"moe_layer_end_index"}, -1, kMost, -1);  // -1: the last one
  return {.first = c.integer({"moe_layer_start_index"}, 0, kMost, 1),
          .last = end < 0 ? kMost : end,
          .interval = c.size({"moe_layer_interval"}, 1)};
}

MoeSpec read_moe(const ConfigReader& c, const ActivationParams& activation) {
  const int64_t width = c.size({"moe_intermediate_size"});
  const int64_t num_shared = c.integer({"moe_num_shared_experts"}, 0, 1024, 2);
  return {.router = {.num_experts = c.size({"moe_num_experts", "num_experts"}),
                     .top_k = c.size({"moe_k", "num_experts_per_tok"}, 6)},
          .intermediate_size = width,
          .activation = activation,
          .shared = {.intermediate_size = width * num_shared,
                     .activation = activation,
                     .module = "shared_experts"},
          .correction_bias = "moe_statics.e_score_correction_bias"};
}

void build(const ConfigReader& c, Builder& b) {
  const int64_t hidden = c.size({"hidden_size"});
  const NormSpec norm = read_norm(c, 1e-5);
  b.embedding("embed_tokens", c.size({"vocab_size"}), hidden);

  AttentionSpec attention = read_heads(c, hidden);
  const RotarySpec rotary = read_rotary(c, {.head_dim = attention.head_dim, .theta = 5e5});
  attention.rotary = b.rotary(rotary);
  attention.rotary_dim = rotary.dim;
  attention.rotates_pairs = true;

  const BiasRule bias = c.bias({"use_bias"});
  const ActivationParams activation = read_activation(c);
  const MoeSpec moe = read_moe(c, activation);
  const DenseMlpSpec dense{
      .intermediate_size = c.size({"intermediate_size"}), .activation = activation, .bias = bias};
  const Layers layers = read_layers(c);

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    b.layer(
        {.mixer_norm = at + "input_layernorm",
         .mixer = b.attention(at + "self_attn", attention, bias, bias),
         .feed_forward_norm = at + "post_attention_layernorm",
         .feed_forward = layers.routed(i) ? b.moe(at + "mlp", moe) : b.dense_mlp(at + "mlp", dense),
         .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings(true));
}

constexpr std::string_view kModelTypes[] = {"ernie4_5_moe"};

}  // namespace

extern const Architecture kErnie45Moe{kModelTypes, build};

}  // namespace moe4
