// Llama-4: grouped-query attention in chunks with rotated pairs, and over all keys without rotation
// but with a temperature in every fourth layer; experts whose routing weight multiplies their
// input, beside a shared one, in every layer or some.
#include "models/architecture.h"
#include "models/common_settings.h"

namespace moe4 {
namespace {

// Temperature of the layers without rotation; whether it is off they say by a switch.
QueryTemperature read_temperature(const ConfigReader& c) {
  const double beta = c.number({"attn_scale"}, 0.1, 0, 1e3);
  const int64_t span = c.size({"floor_scale"}, 8192);
  if (!c.flag({"attn_temperature_tuning"}, true)) return {};
  return {.beta = beta, .span = span, .offset = 1};
}

struct Attentions {
  AttentionSpec rotated, plain;
};

Attentions read_attentions(const ConfigReader& c, const NormSpec& norm, Builder& b) {
  AttentionSpec rotated = read_heads(c, c.size({"hidden_size"}));
  AttentionSpec plain = rotated;
  plain.temperature = read_temperature(c);
  const RotarySpec rotary = read_rotary(c, {.head_dim = rotated.head_dim, .theta = 5e5});
  rotated.rotary = b.rotary(rotary);
  rotated.rotary_dim = rotary.dim;
  rotated.rotates_pairs = true;
  if (c.flag({"use_qk_norm"}, true)) {
    // Behind the rotation, which leaves a head's norm as it is unless it stretches.
    if (rotary.amplitude != 1) {
      c.refuse("use_qk_norm", "false with an attention_factor", std::to_string(rotary.amplitude));
    }
    rotated.norm = NormSpec{.eps = norm.eps, .has_weight = false};
  }
  return {rotated, plain};
}

MoeSpec read_moe(const ConfigReader& c, const ActivationParams& activation) {
  const int64_t width = c.size({"intermediate_size"});
  return {.router = {.scoring = ScoringFunction::kSigmoid,
                     .num_experts = c.size({"num_local_experts", "num_experts"}),
                     .top_k = c.size({"num_experts_per_tok"}, 1),
                     .renormalize = false},
          .intermediate_size = width,
          .activation = activation,
          .weight_on_input = true,
          .shared = {.intermediate_size = width, .activation = activation},
          .gate = "router"};
}

void build(const ConfigReader& c, Builder& b) {
  const NormSpec norm = read_norm(c, 1e-5);
  b.embedding("embed_tokens", c.size({"vocab_size"}), c.size({"hidden_size"}));
  const Attentions attentions = read_attentions(c, norm, b);
  const int64_t chunk =
      c.is_null("attention_chunk_size") ? 0 : c.size({"attention_chunk_size"}, 8192);
  const BiasRule bias = c.bias({"attention_bias"});
  const ActivationParams activation = read_activation(c);
  const MoeSpec moe = read_moe(c, activation);
  const DenseMlpSpec dense{.intermediate_size = c.size({"intermediate_size_mlp"}, 16384),
                           .activation = activation};
  const int64_t interval = c.size({"no_rope_layer_interval"}, 4);
  const int64_t step = c.size({"interleave_moe_layer_step"}, 1);
  const bool lists_experts = c.has("moe_layers");

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    const bool rotates = c.layer_flag(i, "no_rope_layers", (i + 1) % interval != 0);  // 1: it does
    AttentionSpec attention = rotates ? attentions.rotated : attentions.plain;
    const char* usual = rotates && chunk > 0 ? "chunked_attention" : "full_attention";
    if (c.layer_type(i, {"chunked_attention", "full_attention"}, usual) == "chunked_attention") {
      attention.chunk = chunk;
    }
    const bool routed = lists_experts ? c.lists("moe_layers", i) : (i + 1) % step == 0;
    b.layer({.mixer_norm = at + "input_layernorm",
             .mixer = b.attention(at + "self_attn", attention, bias, bias),
             .feed_forward_norm = at + "post_attention_layernorm",
             .feed_forward =
                 routed ? b.moe(at + "feed_forward", moe) : b.dense_mlp(at + "feed_forward", dense),
             .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"llama4_text", "llama4"};

}  // namespace

extern const Architecture kLlama4{kModelTypes, build};

}  // namespace moe4
