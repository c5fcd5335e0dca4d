// Latent attention and routed experts from DeepSeek's keys.
#include "models/deepseek_settings.h"

#include <fmt/format.h>

#include <cmath>

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

// Keys of the rotary embedding's object that it does not read itself; the second changes nothing.
constexpr std::string_view kScalingKeys[] = {"llama_4_scaling_beta", "max_position_embeddings"};
constexpr double kMaxBeta = 1e3;

QueryTemperature read_temperature(const ConfigReader& c, const RotarySpec& rotary) {
  QueryTemperature temperature;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const std::optional<JsonReader> rope = c.json().object(key);
    if (!rope || !rope->has("llama_4_scaling_beta")) continue;
    temperature.beta = rope->number({"llama_4_scaling_beta"}, 0, 0, kMaxBeta);
    temperature.span = static_cast<int64_t>(rotary.original_context);
  }
  if (c.has("llama_4_scaling")) {
    const JsonReader scaling = *c.json().object("llama_4_scaling");
    const double beta = scaling.number({"beta"}, 0, 0, kMaxBeta);
    if (temperature.beta != 0 && temperature.beta != beta) {
      c.refuse("llama_4_scaling", fmt::format("a beta of {}", temperature.beta),
               std::to_string(beta));
    }
    temperature = {.beta = beta, .span = scaling.size({"original_max_position_embeddings"})};
  }
  if (temperature.beta != 0 && temperature.span < 1) {
    c.refuse("llama_4_scaling_beta", "an original context beside it", "none");
  }
  return temperature;
}

}  // namespace

LatentAttentionSpec read_latent_attention(const ConfigReader& c, const NormSpec& norm, Builder& b,
                                          const DeepseekDefaults& defaults) {
  LatentAttentionSpec spec{
      .num_heads = c.size({"num_attention_heads"}),
      .q_latent_dim = c.has("q_lora_rank") ? c.size({"q_lora_rank"}) : 0,  // null: none
      .latent_dim = c.size({"kv_lora_rank"}, 512),
      .nope_dim = c.size({"qk_nope_head_dim"}, defaults.nope_dim),
      .rope_dim = c.size({"qk_rope_head_dim"}, 64),
      .value_dim = c.size({"v_head_dim"}, defaults.value_dim),
      .norm = norm};
  // A head_dim beside these is 192, 64 or their sum, according to the writer.
  const int64_t query_dim = spec.nope_dim + spec.rope_dim;
  RotaryDefaults rotary_defaults{.head_dim = spec.rope_dim, .other_keys = kScalingKeys};
  if (defaults.partial_of_query) {
    rotary_defaults.head_dim = query_dim;
    rotary_defaults.partial_rotary_factor =
        static_cast<double>(spec.rope_dim) / static_cast<double>(query_dim);
  }
  const RotarySpec rotary = read_rotary(c, rotary_defaults);
  if (rotary.dim != spec.rope_dim) {
    c.refuse("partial_rotary_factor",
             fmt::format("{} rotated elements (qk_rope_head_dim)", spec.rope_dim),
             std::to_string(rotary.dim));
  }
  c.require("rope_interleave", true);
  spec.scale = score_scale(rotary, query_dim);
  spec.temperature = read_temperature(c, rotary);
  spec.rotary = b.rotary(rotary);
  return spec;
}

RouterConfig read_deepseek_router(const ConfigReader& c, const DeepseekDefaults& defaults) {
  const bool is_sigmoid = defaults.scoring == ScoringFunction::kSigmoid;
  c.require("scoring_func", {is_sigmoid ? "sigmoid" : "softmax"});
  c.require("topk_method", {is_sigmoid ? "noaux_tc" : "greedy"});
  const double scale = c.number({"routed_scaling_factor"}, defaults.scaling_factor, 1e-6, 1e6);
  return {.scoring = defaults.scoring,
          .num_experts = c.size({"n_routed_experts", "num_local_experts"}),
          .top_k = c.size({"num_experts_per_tok"}),
          .renormalize = c.flag({"norm_topk_prob"}, true),
          .scaling_factor = static_cast<float>(scale),
          .num_groups = c.size({"n_group"}, defaults.num_groups),
          .topk_groups = c.size({"topk_group"}, defaults.topk_groups)};
}

MoeSpec read_deepseek_moe(const ConfigReader& c, const ActivationParams& activation,
                          const DeepseekDefaults& defaults) {
  c.require("moe_layer_freq", 1.0);
  const int64_t width = c.size({"moe_intermediate_size"});
  const bool is_sigmoid = defaults.scoring == ScoringFunction::kSigmoid;
  return {.router = read_deepseek_router(c, defaults),
          .intermediate_size = width,
          .activation = activation,
          .shared = {.intermediate_size = width * c.integer({"n_shared_experts"}, 0, 1024, 1),
                     .activation = activation,
                     .module = "shared_experts"},
          .correction_bias = is_sigmoid ? "gate.e_score_correction_bias" : ""};
}

void build_latent_layers(const ConfigReader& c, Builder& b, const LatentLayers& parts,
                         const std::function<KeyIndexSpec(int64_t layer)>& index_of) {
  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    LatentAttentionSpec attention = parts.attention;
    if (index_of) attention.index = index_of(i);
    const bool is_routed = is_routed_layer(c, i, parts.num_dense);
    b.layer({.mixer_norm = at + "input_layernorm",
             .mixer = b.latent_attention(at + "self_attn", attention, parts.attention_bias),
             .feed_forward_norm = at + "post_attention_layernorm",
             .feed_forward =
                 is_routed ? b.moe(at + "mlp", parts.moe) : b.dense_mlp(at + "mlp", parts.dense),
             .norm = parts.norm});
  }
  b.head("norm", parts.norm, "lm_head", c.tie_word_embeddings());
}

bool is_routed_layer(const ConfigReader& c, int64_t layer, int64_t num_dense) {
  const std::string_view otherwise = layer < num_dense ? "dense" : "sparse";
  return c.layer_type(layer, {"dense", "sparse"}, otherwise, "mlp_layer_types") == "sparse";
}

}  // namespace moe4
