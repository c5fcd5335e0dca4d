// Mixtral: grouped-query attention, over a window where the file has one, and experts in every
// layer.
#include "models/architecture.h"
#include "models/common_settings.h"

namespace moe4 {
namespace {

void build(const ConfigReader& c, Builder& b) {
  const int64_t hidden = c.size({"hidden_size"});
  const NormSpec norm = read_norm(c, 1e-5);
  b.embedding("embed_tokens", c.size({"vocab_size"}), hidden);

  AttentionSpec attention = read_heads(c, hidden);
  const RotarySpec rotary = read_rotary(c, {.head_dim = attention.head_dim, .theta = 1e6});
  attention.rotary = b.rotary(rotary);
  attention.rotary_dim = rotary.dim;
  attention.window = c.has("sliding_window") ? c.size({"sliding_window"}) : 0;

  const ActivationParams activation = read_activation(c);
  const RouterConfig router{.num_experts = c.size({"num_local_experts", "num_experts"}),
                            .top_k = c.size({"num_experts_per_tok"})};
  const int64_t width = c.size({"intermediate_size"});
  const MoeSpec moe{.router = router, .intermediate_size = width, .activation = activation};

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    b.layer({.mixer_norm = at + "input_layernorm",
             .mixer = b.attention(at + "self_attn", attention),
             .feed_forward_norm = at + "post_attention_layernorm",
             .feed_forward = b.moe(at + "block_sparse_moe", moe),
             .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"mixtral"};

}  // namespace

extern const Architecture kMixtral{kModelTypes, build};

}  // namespace moe4
