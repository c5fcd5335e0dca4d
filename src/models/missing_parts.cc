// Parts that the configuration shows.
#include "models/missing_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "models/model.h"
#include "models/rotary_config.h"

namespace moe4 {
namespace {

void add_mixers(const ModelConfig& config, std::vector<std::string>& parts) {
  const auto has = [&](LayerKind kind) {
    return std::find(config.layer_kinds.begin(), config.layer_kinds.end(), kind) !=
           config.layer_kinds.end();
  };
  if (has(LayerKind::kMamba)) parts.emplace_back("Mamba layers in its own arrangement");
  if (has(LayerKind::kUnknown)) parts.emplace_back("layers of an unknown kind");
  if (has(LayerKind::kConvolution)) parts.emplace_back("short convolutions");
  if (config.is_latent_attention) parts.emplace_back("multi-head latent attention");
  for (const LayerKind kind : {LayerKind::kSlidingAttention, LayerKind::kChunkedAttention,
                               LayerKind::kSparseAttention, LayerKind::kCompressedAttention}) {
    if (has(kind)) parts.emplace_back(to_string(kind));
  }
  if (!is_known_rope_type(config.rope_type)) {
    parts.push_back(fmt::format("rotary embedding of type {}", printable(config.rope_type, 40)));
  }
  if (config.rope_per_layer) parts.emplace_back("rotary embeddings that differ by layer");
}

void add_experts(const ModelConfig& config, std::vector<std::string>& parts) {
  if (config.moe.num_experts == 0) return;
  if (config.moe.weight_on_input) parts.emplace_back("routing weights on the experts' input");
  if (config.router_scoring != "softmax" && config.router_scoring != "sigmoid") {
    parts.push_back(fmt::format("{} routing", printable(config.router_scoring, 40)));
  }
  if (config.router_has_logit_bias) parts.emplace_back("a bias of the router's logits");
  if (config.router_has_expert_scale) parts.emplace_back("a scale for each expert in the router");
  if (config.router_logit_cap > 0) parts.emplace_back("a cap on the router's logits");
  if (!config.is_hash_layer.empty()) parts.emplace_back("experts chosen by token id");
}

}  // namespace

bool is_known_architecture(const std::string& model_type) {
  const std::vector<std::string> known = known_architectures();
  return std::find(known.begin(), known.end(), model_type) != known.end();
}

std::vector<std::string> missing_parts(const ModelConfig& config) {
  std::vector<std::string> parts;
  if (is_known_architecture(config.model_type)) return parts;
  add_mixers(config, parts);
  add_experts(config, parts);
  return parts;
}

std::string why_not_run(const ModelConfig& config) {
  if (is_known_architecture(config.model_type)) return "";
  std::string text = fmt::format("architecture {} is not known", printable(config.model_type, 80));
  const std::vector<std::string> parts = missing_parts(config);
  return parts.empty() ? text : fmt::format("{}: it needs {}", text, fmt::join(parts, ", "));
}

}  // namespace moe4
