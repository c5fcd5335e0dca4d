// Mistral-Small-4: the latent attention of DeepSeek-V3 with YaRN and a temperature that grows with
// the position, experts chosen by a softmax, beside a shared one.
#include "models/architecture.h"
#include "models/common_settings.h"
#include "models/deepseek_settings.h"

namespace moe4 {
namespace {

void build(const ConfigReader& c, Builder& b) {
  const NormSpec norm = read_norm(c);
  b.embedding("embed_tokens", c.size({"vocab_size"}), c.size({"hidden_size"}));
  const DeepseekDefaults defaults{.nope_dim = 64,
                                  .partial_of_query = true,
                                  .scoring = ScoringFunction::kSoftmax,
                                  .scaling_factor = 1.0,
                                  .num_groups = 1,
                                  .topk_groups = 1};
  LatentAttentionSpec attention = read_latent_attention(c, norm, b, defaults);
  if (attention.temperature.is_one()) {
    // There is no published file without; its class has 0.1.
    c.refuse("llama_4_scaling_beta", "a number in rope_parameters", "none");
  }
  const BiasRule attention_bias = c.bias({"attention_bias"});
  const ActivationParams activation = read_activation(c);
  c.require("n_group", 1.0);
  const MoeSpec moe = read_deepseek_moe(c, activation, defaults);
  const DenseMlpSpec dense{.intermediate_size = c.size({"intermediate_size"}, 12288),
                           .activation = activation};
  const int64_t num_dense = c.integer({"first_k_dense_replace"}, 0, 1 << 20, 0);

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

constexpr std::string_view kModelTypes[] = {"mistral4"};

}  // namespace

extern const Architecture kMistral4{kModelTypes, build};

}  // namespace moe4
