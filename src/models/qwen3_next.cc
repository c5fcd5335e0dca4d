// Qwen3-Next: gated delta net in most layers, gated attention with partial rotary in the others, a
// shared expert with a sigmoid gate, norms that multiply by 1 + w; projections of the delta net
// grouped by key head; some layers may be dense.
#include "models/architecture.h"
#include "models/common_settings.h"

namespace moe4 {
namespace {

void build(const ConfigReader& c, Builder& b) {
  const int64_t hidden = c.size({"hidden_size"});
  NormSpec norm = read_norm(c);
  norm.one_plus = true;
  b.embedding("embed_tokens", c.size({"vocab_size"}), hidden);

  AttentionSpec attention = read_heads(c, hidden, 256);
  const RotarySpec rotary =
      read_rotary(c, {.head_dim = attention.head_dim, .partial_rotary_factor = 0.25});
  attention.output_gate = OutputGate::kSigmoidBesideQuery;
  c.require("attn_output_gate", true);
  attention.norm = norm;
  attention.rotary = b.rotary(rotary);
  attention.rotary_dim = rotary.dim;
  const BiasRule attention_bias = c.bias({"attention_bias"});
  if (!c.flag({"use_sliding_window"}, false)) c.disregard({"sliding_window"});

  const DeltaNet::Problem delta_net = read_delta_net(c, norm);
  const ActivationParams activation = read_activation(c);
  const MoeSpec moe{
      .router = {.num_experts = c.size({"num_experts", "num_local_experts"}),
                 .top_k = c.size({"num_experts_per_tok"}),
                 .renormalize = c.flag({"norm_topk_prob"}, true)},
      .intermediate_size = c.size({"moe_intermediate_size"}),
      .activation = activation,
      .shared = {.intermediate_size = c.size({"shared_expert_intermediate_size"}, 512),
                 .activation = activation,
                 .gate = "shared_expert_gate"}};
  const DenseMlpSpec dense{.intermediate_size = c.size({"intermediate_size"}, 5632),
                           .activation = activation};
  const int64_t step = c.size({"decoder_sparse_step"}, 1);
  const int64_t interval = c.size({"full_attention_interval"}, 4);

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    const bool full =
        c.layer_type(i, {"linear_attention", "full_attention"},
                     (i + 1) % interval == 0 ? "full_attention" : "linear_attention") ==
        "full_attention";
    const bool routed = (i + 1) % step == 0 && !c.lists("mlp_only_layers", i);
    b.layer({.mixer_norm = at + "input_layernorm",
             .mixer = full
                          ? b.attention(at + "self_attn", attention, attention_bias, attention_bias)
                          : b.delta_net(at + "linear_attn", delta_net, DeltaNetInputs::kByKeyHead),
             .feed_forward_norm = at + "post_attention_layernorm",
             .feed_forward = routed ? b.moe(at + "mlp", moe) : b.dense_mlp(at + "mlp", dense),
             .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"qwen3_next"};

}  // namespace

extern const Architecture kQwen3Next{kModelTypes, build};

}  // namespace moe4
