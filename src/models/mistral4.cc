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
  const LatentAttentionSpec attention = read_latent_attention(c, norm, b, defaults);
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

  build_latent_layers(c, b, {norm, attention, attention_bias, moe, dense, num_dense});
}

constexpr std::string_view kModelTypes[] = {"mistral4"};

}  // namespace

extern const Architecture kMistral4{kModelTypes, build};

}  // namespace moe4
