// gpt-oss: attention with biases and sinks, over a window in every other layer; in all layers
// experts with biases and a clamped activation, weighted by the softmax of the chosen logits alone.
#include "models/architecture.h"
#include "models/common_settings.h"

namespace moe4 {
namespace {

// There is no plain rotary embedding to fall back to: absent means YaRN with numbers that no
// published file leaves out.
RotarySpec read_yarn(const ConfigReader& c, int64_t head_dim) {
  if (!c.has("rope_scaling") && !c.has("rope_parameters")) {
    c.refuse("rope_scaling", "an object with a rope_type", "nothing");
  }
  const RotarySpec spec = read_rotary(c, {.head_dim = head_dim, .theta = 150000});
  if (spec.scaling == RotaryScaling::kYarn) {
    c.require("initial_context_length", spec.original_context);
  }
  return spec;
}

void build(const ConfigReader& c, Builder& b) {
  const int64_t hidden = c.size({"hidden_size"});
  const NormSpec norm = read_norm(c, 1e-5);
  b.embedding("embed_tokens", c.size({"vocab_size"}), hidden);

  AttentionSpec full = read_heads(c, hidden, 64);
  const RotarySpec rotary = read_yarn(c, full.head_dim);
  full.sinks = true;
  full.rotary = b.rotary(rotary);
  full.rotary_dim = rotary.dim;
  AttentionSpec window = full;
  window.window = c.size({"sliding_window"});
  const BiasRule bias{"attention_bias", c.flag({"attention_bias"}, true)};

  // transformers does not look at it, and files say silu.
  c.require("hidden_act", {"silu", "swigluoai"});
  const MoeSpec moe{
      .router = {.scoring = ScoringFunction::kSoftmaxOverSelected,
                 .num_experts = c.size({"num_local_experts", "num_experts"}),
                 .top_k = c.size({"num_experts_per_tok", "experts_per_token"})},
      .intermediate_size = c.size({"intermediate_size"}),
      .activation = {.kind = ActivationKind::kSwigluOai,
                     .alpha = static_cast<float>(c.number({"swiglu_alpha"}, 1.702, 1e-6, 1e6)),
                     .limit = static_cast<float>(c.number({"swiglu_limit"}, 7.0, 1e-6, 1e30))},
      .gate = "router",
      .gate_bias = {.key = "", .there = true}};

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    const bool is_window =
        c.layer_type(i, {"sliding_attention", "full_attention"},
                     i % 2 == 0 ? "sliding_attention" : "full_attention") == "sliding_attention";
    b.layer({.mixer_norm = at + "input_layernorm",
             .mixer = b.attention(at + "self_attn", is_window ? window : full, bias, bias),
             .feed_forward_norm = at + "post_attention_layernorm",
             .feed_forward = b.moe(at + "mlp", moe),
             .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"gpt_oss"};

}  // namespace

extern const Architecture kGptOss{kModelTypes, build};

}  // namespace moe4
