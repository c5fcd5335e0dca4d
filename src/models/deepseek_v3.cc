// DeepSeek-V3, R1, V3.1 and Kimi-K2: latent attention, some dense layers, then experts chosen by
// sigmoid scores and a correction bias within groups, beside a shared expert.
#include <cmath>

#include "models/architecture.h"
#include "models/common_settings.h"

namespace moe4 {
namespace {

// What multiplies scores: 1 / sqrt of a query's width, and the square of YaRN's correction where
// the file asks for it. The amplitude of the angles is another correction, with its own key.
float score_scale(const RotarySpec& rotary, int64_t query_dim) {
  double scale = 1.0 / std::sqrt(static_cast<double>(query_dim));
  if (rotary.scaling != RotaryScaling::kNone && rotary.mscale_all_dim != 0) {
    const double mscale = yarn_mscale(rotary.factor, rotary.mscale_all_dim);
    scale *= mscale * mscale;
  }
  return static_cast<float>(scale);
}

LatentAttentionSpec read_attention(const ConfigReader& c, const NormSpec& norm, Builder& b) {
  LatentAttentionSpec spec{
      .num_heads = c.size({"num_attention_heads"}),
      .q_latent_dim = c.has("q_lora_rank") ? c.size({"q_lora_rank"}) : 0,  // null: none
      .latent_dim = c.size({"kv_lora_rank"}, 512),
      .nope_dim = c.size({"qk_nope_head_dim"}, 128),
      .rope_dim = c.size({"qk_rope_head_dim"}, 64),
      .value_dim = c.size({"v_head_dim"}, 128),
      .norm = norm};
  // A head_dim beside these is 192, 64 or their sum, according to the writer.
  const RotarySpec rotary = read_rotary(c, {.head_dim = spec.rope_dim});
  c.require("rope_interleave", true);
  spec.scale = score_scale(rotary, spec.nope_dim + spec.rope_dim);
  spec.rotary = b.rotary(rotary);
  return spec;
}

MoeSpec read_moe(const ConfigReader& c, const ActivationParams& activation) {
  c.require("scoring_func", {"sigmoid"});
  c.require("topk_method", {"noaux_tc"});
  c.require("moe_layer_freq", 1.0);
  const int64_t width = c.size({"moe_intermediate_size"});
  return {.router = {.scoring = ScoringFunction::kSigmoid,
                     .num_experts = c.size({"n_routed_experts"}),
                     .top_k = c.size({"num_experts_per_tok"}),
                     .renormalize = c.flag({"norm_topk_prob"}, true),
                     .scaling_factor =
                         static_cast<float>(c.number({"routed_scaling_factor"}, 2.5, 1e-6, 1e6)),
                     .num_groups = c.size({"n_group"}, 8),
                     .topk_groups = c.size({"topk_group"}, 4)},
          .intermediate_size = width,
          .activation = activation,
          .shared = {.intermediate_size = width * c.integer({"n_shared_experts"}, 0, 1024, 1),
                     .activation = activation,
                     .module = "shared_experts"},
          .correction_bias = "gate.e_score_correction_bias"};
}

void build(const ConfigReader& c, Builder& b) {
  const NormSpec norm = read_norm(c);
  b.embedding("embed_tokens", c.size({"vocab_size"}), c.size({"hidden_size"}));
  const LatentAttentionSpec attention = read_attention(c, norm, b);
  const BiasRule attention_bias = c.bias({"attention_bias"});
  const ActivationParams activation = read_activation(c);
  const MoeSpec moe = read_moe(c, activation);
  const DenseMlpSpec dense{.intermediate_size = c.size({"intermediate_size"}),
                           .activation = activation};
  const int64_t num_dense = c.integer({"first_k_dense_replace"}, 0, 1 << 20, 3);

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    b.layer(
        {.mixer_norm = at + "input_layernorm",
         .mixer = b.latent_attention(at + "self_attn", attention, attention_bias),
         .feed_forward_norm = at + "post_attention_layernorm",
         .feed_forward = i < num_dense ? b.dense_mlp(at + "mlp", dense) : b.moe(at + "mlp", moe),
         .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"deepseek_v3", "kimi_k2", "kimi_k25"};

}  // namespace

extern const Architecture kDeepseekV3{kModelTypes, build};

}  // namespace moe4
