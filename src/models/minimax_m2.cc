// MiniMax-M2, M2.5 and M2.7: grouped-query attention whose norms of queries and keys are over all
// heads together and which turns a part of each head; experts chosen by sigmoid scores and a
// correction bias in every layer.
#include "models/architecture.h"
#include "models/common_settings.h"

namespace moe4 {
namespace {

AttentionSpec read_attention(const ConfigReader& c, int64_t hidden, const NormSpec& norm,
                             Builder& b) {
  AttentionSpec spec = read_heads(c, hidden, 128);
  // Released files give the width, not the part.
  const int64_t width = c.integer({"rotary_dim"}, 2, spec.head_dim, spec.head_dim);
  const double part = static_cast<double>(width) / static_cast<double>(spec.head_dim);
  const RotarySpec rotary =
      read_rotary(c, {.head_dim = spec.head_dim, .theta = 5e6, .partial_rotary_factor = part});
  spec.rotary = b.rotary(rotary);
  spec.rotary_dim = rotary.dim;
  c.require("use_qk_norm", true);
  c.require("qk_norm_type", {"per_layer"});
  spec.norm = norm;
  spec.norm_over_heads = true;
  return spec;
}

MoeSpec read_moe(const ConfigReader& c) {
  c.require("scoring_func", {"sigmoid"});
  c.require("use_routing_bias", true);
  const RouterConfig router{.scoring = ScoringFunction::kSigmoid,
                            .num_experts = c.size({"num_local_experts", "num_experts"}),
                            .top_k = c.size({"num_experts_per_tok"})};
  return {.router = router,
          .intermediate_size = c.size({"intermediate_size"}),
          .activation = read_activation(c),
          .correction_bias = "e_score_correction_bias"};
}

void build(const ConfigReader& c, Builder& b) {
  const int64_t hidden = c.size({"hidden_size"});
  const NormSpec norm = read_norm(c);
  b.embedding("embed_tokens", c.size({"vocab_size"}), hidden);
  const AttentionSpec attention = read_attention(c, hidden, norm, b);

  const MoeSpec moe = read_moe(c);

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    c.layer_type(i, {"full_attention"}, "full_attention");
    b.layer({.mixer_norm = at + "input_layernorm",
             .mixer = b.attention(at + "self_attn", attention),
             .feed_forward_norm = at + "post_attention_layernorm",
             .feed_forward = b.moe(at + "block_sparse_moe", moe),
             .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"minimax_m2"};

}  // namespace

extern const Architecture kMinimaxM2{kModelTypes, build};

}  // namespace moe4
