// DeepSeek-V3, R1, V3.1 and Kimi-K2: latent attention, some dense layers, then experts chosen by
// sigmoid scores and a correction bias within groups, beside a shared expert.
#include "models/architecture.h"
#include "models/common_settings.h"
#include "models/deepseek_settings.h"

namespace moe4 {
namespace {

void build(const ConfigReader& c, Builder& b) {
  const NormSpec norm = read_norm(c);
  b.embedding("embed_tokens", c.size({"vocab_size"}), c.size({"hidden_size"}));
  const DeepseekDefaults defaults;
  const LatentAttentionSpec attention = read_latent_attention(c, norm, b, defaults);
  const BiasRule attention_bias = c.bias({"attention_bias"});
  const ActivationParams activation = read_activation(c);
  const MoeSpec moe = read_deepseek_moe(c, activation, defaults);
  const DenseMlpSpec dense{.intermediate_size = c.size({"intermediate_size"}),
                           .activation = activation};
  const int64_t num_dense = c.integer({"first_k_dense_replace"}, 0, 1 << 20, 3);

  build_latent_layers(c, b, {norm, attention, attention_bias, moe, dense, num_dense});
}

constexpr std::string_view kModelTypes[] = {"deepseek_v3", "kimi_k2", "kimi_k25"};

}  // namespace

extern const Architecture kDeepseekV3{kModelTypes, build};

}  // namespace moe4
