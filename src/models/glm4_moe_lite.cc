// GLM-4.7-Flash: the latent attention and the experts of DeepSeek-V3 without YaRN and groups.
#include "models/architecture.h"
#include "models/common_settings.h"
#include "models/deepseek_settings.h"

namespace moe4 {
namespace {

void build(const ConfigReader& c, Builder& b) {
  const NormSpec norm = read_norm(c, 1e-5);
  b.embedding("embed_tokens", c.size({"vocab_size"}), c.size({"hidden_size"}));
  const DeepseekDefaults defaults{
      .nope_dim = 192, .value_dim = 256, .scaling_factor = 1.8, .num_groups = 1, .topk_groups = 1};
  const LatentAttentionSpec attention = read_latent_attention(c, norm, b, defaults);
  const BiasRule attention_bias = c.bias({"attention_bias"});
  const ActivationParams activation = read_activation(c);
  const MoeSpec moe = read_deepseek_moe(c, activation, defaults);
  const DenseMlpSpec dense{.intermediate_size = c.size({"intermediate_size"}, 10240),
                           .activation = activation};
  const int64_t num_dense = c.integer({"first_k_dense_replace"}, 0, 1 << 20, 1);

  build_latent_layers(c, b, {norm, attention, attention_bias, moe, dense, num_dense});
}

constexpr std::string_view kModelTypes[] = {"glm4_moe_lite"};

}  // namespace

extern const Architecture kGlm4MoeLite{kModelTypes, build};

}  // namespace moe4
