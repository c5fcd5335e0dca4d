// Nemotron-H (Nemotron-3 Nano, Super, Ultra): layers of one part each (Mamba-2, attention without
// rotary embedding, experts or a dense MLP), relu2 everywhere, routed experts on a latent in the
// larger models.
#include <limits>

#include "models/architecture.h"
#include "models/common_settings.h"
#include "models/deepseek_settings.h"

namespace moe4 {
namespace {

Mamba2Spec read_mamba2(const ConfigReader& c, const NormSpec& norm) {
  // Not time_step_min and time_step_max, which are about the initialisation of dt_bias.
  const auto limit = c.interval("time_step_limit", {0.0f, std::numeric_limits<float>::infinity()});
  c.require("mamba_hidden_act", {"silu", "swish"});
  c.require("mamba_proj_bias", false);
  return {.ssm = {.num_heads = c.size({"mamba_num_heads"}),
                  .head_dim = c.size({"mamba_head_dim"}),
                  .num_groups = c.size({"n_groups"}),
                  .state_dim = c.size({"ssm_state_size"}),
                  .conv_taps = c.integer({"conv_kernel"}, 1, 64, 4),
                  .time_step_min = limit[0],
                  .time_step_max = limit[1],
                  .norm_eps = norm.eps},
          .conv_bias = c.flag({"use_conv_bias"}, true),
          .bias = c.bias({"use_bias"})};
}

MoeSpec read_moe(const ConfigReader& c, const ActivationParams& activation) {
  c.require("n_shared_experts", 1.0);
  MoeSpec spec{
      .router = read_deepseek_router(c, {.scaling_factor = 1.0, .num_groups = 1, .topk_groups = 1}),
      .intermediate_size = c.size({"moe_intermediate_size"}),
      .activation = activation,
      .latent_size = c.has("moe_latent_size") ? c.size({"moe_latent_size"}) : 0,
      .shared = {.intermediate_size = c.size({"moe_shared_expert_intermediate_size"}),
                 .activation = activation,
                 .module = "shared_experts"},
      .correction_bias = "gate.e_score_correction_bias"};
  if (spec.latent_size > 0) c.require_multiple("moe_latent_size", spec.latent_size, kRowPadding);
  return spec;
}

void build(const ConfigReader& c, Builder& b) {
  const int64_t hidden = c.size({"hidden_size"});
  const NormSpec norm{
      .eps = static_cast<float>(c.number({"layer_norm_epsilon", "norm_eps"}, 1e-5, 0.0, 1.0))};
  b.embedding("embeddings", c.size({"vocab_size"}), hidden);

  AttentionSpec attention = read_heads(c, hidden, 128);
  c.disregard({"rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"});
  c.require("attention_bias", false);
  c.require("mlp_bias", false);

  c.require("mlp_hidden_act", {"relu2"});
  const ActivationParams relu2{.kind = ActivationKind::kRelu2};
  const std::string layers = c.hybrid_layers();
  const auto has = [&](char kind) { return layers.find(kind) != std::string::npos; };
  const Mamba2Spec mamba2 = has('M') ? read_mamba2(c, norm) : Mamba2Spec{};
  const MoeSpec moe = has('E') ? read_moe(c, relu2) : MoeSpec{};
  const DenseMlpSpec dense{.intermediate_size = has('-') ? c.size({"intermediate_size"}) : 0,
                           .activation = relu2};

  for (size_t i = 0; i < layers.size(); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".", mixer = at + "mixer";
    switch (layers[i]) {
      case 'M':
        b.layer(at + "norm", b.mamba2(mixer, mamba2), norm);
        break;
      case '*':
        b.layer(at + "norm", b.attention(mixer, attention), norm);
        break;
      case 'E':
        b.layer(at + "norm", b.moe(mixer, moe), norm);
        break;
      default:
        b.layer(at + "norm", b.dense_mlp(mixer, dense), norm);
    }
  }
  b.head("norm_f", norm, "lm_head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"nemotron_h"};

}  // namespace

extern const Architecture kNemotronH{kModelTypes, build};

}  // namespace moe4
