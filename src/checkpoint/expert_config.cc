// Sizes of routed and shared experts, the activation between FC1 and FC2, and the router.
#include "checkpoint/expert_config.h"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/layer_layout.h"

namespace moe4 {
namespace {

constexpr int64_t kMaxExperts = 65536;
constexpr float kNoLimit = std::numeric_limits<float>::infinity();

// A limit as the file says it: absent, null and 0 mean none.
float limit_of(const JsonReader& text, const char* key, const Json& value) {
  if (value.is_null()) return kNoLimit;
  const double limit = value.is_number() ? value.get<double>() : -1.0;
  if (!(limit >= 0.0) || limit > 1e30) {
    text.fail(key, "configuration value is not usable",
              "a limit that is positive, or 0 or null for none", describe(value));
  }
  return limit == 0.0 ? kNoLimit : static_cast<float>(limit);
}

// swiglu_limit of one number, or swiglu_limits with one a layer.
void read_limits(const JsonReader& text, ModelConfig& config) {
  ActivationParams& activation = config.moe.activation;
  for (const char* key : {"swiglu_limit", "swiglu_limits"}) {
    const Json* value = text.get(key);
    if (value == nullptr) continue;
    if (!value->is_array()) {
      activation.limit = limit_of(text, key, *value);
      continue;
    }
    check_layer_list(text, *value, key, config.num_layers);
    config.expert_limits.clear();
    for (int64_t i = 0; i < config.num_layers; ++i) {
      config.expert_limits.push_back(limit_of(text, key, (*value)[i]));
    }
  }
}

void read_activation(const JsonReader& text, const Family& family, ModelConfig& config) {
  ActivationParams& activation = config.moe.activation;
  const std::string name =
      text.string({"mlp_hidden_act", "hidden_act", "hidden_activation", "activation"}, "silu");
  // Some exports of MiniMax-M3 say silu and mean the clamped kind all the same.
  if (family.oai_activation || name.starts_with("swigluoai")) {
    activation.kind = ActivationKind::kSwigluOai;
    activation.alpha = static_cast<float>(text.number({"swiglu_alpha"}, 1.702, 1e-6, 1e6));
    activation.beta = static_cast<float>(text.number({"swiglu_beta"}, 1.0, -1e6, 1e6));
    activation.limit = 7.0f;
  } else if (name == "silu" || name == "swish" || name == "swiglu") {
    activation.kind = ActivationKind::kSilu;
  } else if (name == "gelu_tanh" || name == "gelu_pytorch_tanh" || name == "gelu_new") {
    activation.kind = ActivationKind::kGeluTanh;
  } else if (name == "relu2") {
    activation.kind = ActivationKind::kRelu2;
  } else {
    text.fail("hidden_act", "unknown activation", "silu, gelu_pytorch_tanh, swigluoai or relu2",
              printable(name, 80));
  }
  read_limits(text, config);
  const bool clamps = activation.has_limit() || !config.expert_limits.empty();
  if (family.is_step && clamps && activation.kind == ActivationKind::kSilu) {
    activation.kind = ActivationKind::kSiluLateClamp;
  }
}

void read_shared_expert(const JsonReader& text, const Family& family, ModelConfig& config) {
  constexpr int64_t kMaxWidth = std::numeric_limits<int32_t>::max();
  int64_t& width = config.shared_expert_intermediate_size;
  if (text.has("shared_expert_intermediate_size") ||
      text.has("moe_shared_expert_intermediate_size") || text.has("shared_intermediate_size") ||
      text.has("share_expert_dim")) {
    width = text.integer({"shared_expert_intermediate_size", "moe_shared_expert_intermediate_size",
                          "shared_intermediate_size", "share_expert_dim"},
                         0, kMaxWidth, 0);
  } else if (text.has("n_shared_experts") || text.has("num_shared_experts") ||
             text.has("moe_num_shared_experts")) {
    width = config.moe.intermediate_size *
            text.integer({"n_shared_experts", "num_shared_experts", "moe_num_shared_experts"}, 0,
                         1024, 0);
  } else if (family.weight_on_input) {
    width = config.moe.intermediate_size;
  } else if (family.is_qwen35 || family.is_qwen3_next) {
    width = 512;
  }
}

void read_scoring(const JsonReader& text, const Family& family, ModelConfig& config) {
  config.router_scoring =
      text.string({"scoring_func", "score_func", "score_function", "moe_router_activation"},
                  std::string(family.scoring_name));
  config.router.scoring =
      config.router_scoring == "sigmoid" ? ScoringFunction::kSigmoid : family.scoring;
}

void read_router(const JsonReader& text, const Family& family, ModelConfig& config) {
  RouterConfig& router = config.router;
  const int64_t num_experts = config.moe.num_experts;
  router.num_experts = num_experts;
  router.top_k = config.moe.top_k;
  read_scoring(text, family, config);
  router.renormalize = text.boolean({"norm_topk_prob", "norm_expert_weight"}, family.renormalize);
  router.scaling_factor =
      static_cast<float>(text.number({"routed_scaling_factor", "moe_router_scaling_factor",
                                      "moe_routed_scaling_factor", "router_scaling_factor"},
                                     1.0, 1e-6, 1e6));
  router.num_groups = text.size({"n_group", "num_expert_group"}, 1);
  router.topk_groups = text.size({"topk_group"}, 1);
  if (num_experts % router.num_groups != 0) {
    text.fail("n_group", "expert groups do not divide",
              fmt::format("a divisor of the number of experts, {}", num_experts),
              std::to_string(router.num_groups));
  }
  if (router.topk_groups > router.num_groups ||
      router.topk_groups * (num_experts / router.num_groups) < router.top_k) {
    text.fail("topk_group", "expert groups do not fit the experts per token",
              fmt::format("at most n_group = {} and room for {} experts", router.num_groups,
                          router.top_k),
              std::to_string(router.topk_groups));
  }
  const bool has_method = text.has("topk_method");
  config.router_has_correction_bias =
      has_method ? text.string({"topk_method"}, "") == "noaux_tc"
                 : text.boolean({"use_routing_bias", "use_moe_router_bias", "moe_use_aux_free"},
                                family.correction_bias);
  config.router_has_logit_bias = family.is_gpt_oss;
  config.router_has_expert_scale = family.is_gemma4;
  config.router_logit_cap = static_cast<float>(
      text.number({"moe_router_logit_softcapping", "router_logit_softcapping"}, 0.0, 0.0, 1e6));
}

}  // namespace

void read_experts(const JsonReader& text, const Family& family, ModelConfig& config) {
  const bool has_dense_width = text.has("intermediate_size") || text.has("intermediate_size_mlp") ||
                               text.has("ffn_hidden_size") || text.has("dense_intermediate_size");
  config.dense_intermediate_size =
      has_dense_width ? text.size({"intermediate_size_mlp", "dense_intermediate_size"},
                                  text.size({"intermediate_size", "ffn_hidden_size"}, 1))
                      : 0;
  config.experts_module = family.experts_module;
  config.up_projection = family.up_projection;
  config.stacked_experts = family.stacked_experts;
  config.experts_have_biases = family.is_gpt_oss;
  config.expert_dtype = text.string({"expert_dtype"}, "");
  // Gemma-4's dense sizes keep the keys of the experts they do not have.
  if (family.is_gemma4 && !text.boolean({"enable_moe_block"}, true)) return;
  const int64_t num_experts =
      text.integer({"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"},
                   family.needs_experts ? 1 : 0, kMaxExperts,
                   family.needs_experts ? std::nullopt : std::optional<int64_t>(0));
  if (num_experts == 0) return;

  MoeProblem& moe = config.moe;
  moe.num_experts = moe.num_local_experts = num_experts;
  moe.hidden_size = text.size({"moe_latent_size"}, config.hidden_size);
  moe.top_k = text.size({"num_experts_per_tok", "num_experts_per_token", "experts_per_token",
                         "top_k_experts", "moe_top_k", "moe_topk", "moe_k"});
  if (moe.top_k > num_experts) {
    text.fail("num_experts_per_tok", "more experts per token than experts",
              fmt::format("at most num_experts = {}", num_experts), std::to_string(moe.top_k));
  }
  moe.intermediate_size =
      family.expert_width_is_intermediate_size && !text.has("moe_intermediate_size")
          ? text.size({"intermediate_size"})
          : text.size({"moe_intermediate_size", "expert_intermediate_size", "moe_ffn_hidden_size"});
  moe.weight_on_input = family.weight_on_input;
  read_activation(text, family, config);
  read_shared_expert(text, family, config);
  read_router(text, family, config);
}

MoeProblem ModelConfig::moe_problem(int64_t layer) const {
  MoeProblem problem = moe;
  if (!expert_limits.empty()) problem.activation.limit = expert_limits.at(layer);
  // A layer of Step without a limit is plain SwiGLU, which every backend computes.
  if (problem.activation.kind == ActivationKind::kSiluLateClamp &&
      !problem.activation.has_limit()) {
    problem.activation.kind = ActivationKind::kSilu;
  }
  return problem;
}

}  // namespace moe4
