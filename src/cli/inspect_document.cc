// A checkpoint's layers in groups, findings, and both as JSON.
#include "cli/inspect_document.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "cli/inventory.h"
#include "cli/plan_report.h"
#include "models/refusals.h"

namespace moe4::cli {
namespace {

std::string describe_mixer(const ModelConfig& config, int64_t layer) {
  const LayerKind kind = config.layer_kinds[layer];
  const bool attends = kind == LayerKind::kFullAttention || kind == LayerKind::kSparseAttention;
  std::string text(to_string(kind));
  return config.is_latent_attention && attends ? "latent " + text : text;
}

std::string describe_experts(const Checkpoint& checkpoint, int64_t layer) {
  const ModelConfig& config = checkpoint.config();
  if (!config.has_feed_forward[layer]) return "none";
  if (!config.is_moe_layer[layer])
    return fmt::format("dense, width {}", config.dense_intermediate_size);
  const MoeLayerSummary experts = checkpoint.moe_layer_summary(layer);
  const MoeProblem& p = experts.problem;
  std::string text =
      fmt::format("{} experts of width {}, top {}, {}", p.num_experts, p.intermediate_size, p.top_k,
                  scheme_text({.scheme = experts.scheme,
                               .weight_dtype = unquantised_dtype(checkpoint, layer, experts),
                               .unsupported = experts.unsupported}));
  if (p.hidden_size != config.hidden_size) text += fmt::format(", latent {}", p.hidden_size);
  if (!experts.error.empty()) text += " (cannot be decoded)";
  if (config.shared_expert_intermediate_size > 0)
    text += fmt::format(" + shared {}", config.shared_expert_intermediate_size);
  return text;
}

nlohmann::ordered_json to_json(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  const Inventory inventory = take_inventory(checkpoint);
  nlohmann::ordered_json json = {
      {"model", checkpoint.path().string()},
      {"architecture", config.architecture},
      {"model_type", config.model_type},
      {"dialect", checkpoint.dialect()},
      {"hidden_size", config.hidden_size},
      {"num_layers", config.num_layers},
      {"vocab_size", config.vocab_size},
      {"max_position_embeddings", config.max_position_embeddings},
      {"parameters", inventory.parameters},
      {"active_parameters", inventory.active_parameters},
      {"bytes", inventory.bytes},
      {"bytes_per_token", inventory.active_bytes},
  };
  for (const LayerGroup& group : group_layers(checkpoint)) {
    json["layer_groups"].push_back({{"layers", group.layers},
                                    {"attention", group.attention},
                                    {"feed_forward", group.feed_forward}});
  }
  for (const Component& c : inventory.components) {
    json["components"].push_back({{"name", c.name},
                                  {"formats", c.formats},
                                  {"parameters", c.parameters},
                                  {"bytes", c.bytes},
                                  {"bytes_per_token", c.active_bytes}});
  }
  return json;
}

}  // namespace

std::vector<LayerGroup> group_layers(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  std::vector<LayerGroup> groups;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    LayerGroup next{{layer}, describe_mixer(config, layer), describe_experts(checkpoint, layer)};
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const LayerGroup& group) {
      return group.attention == next.attention && group.feed_forward == next.feed_forward;
    });
    if (same == groups.end()) {
      groups.push_back(std::move(next));
    } else {
      same->layers.push_back(layer);
    }
  }
  return groups;
}

// What stands in the way of running the model, what opening noticed and, with --lint, what the
// scales say.
std::vector<LintFinding> findings_of(const Checkpoint& checkpoint, bool with_lint) {
  std::vector<LintFinding> findings;
  for (const Refusal& refusal : refusals(checkpoint)) {
    findings.push_back({LintFinding::Level::kError, refusal.code, refusal.where, refusal.message});
  }
  if (with_lint) {
    std::vector<LintFinding> more = lint(checkpoint);
    findings.insert(findings.end(), std::make_move_iterator(more.begin()),
                    std::make_move_iterator(more.end()));
    return findings;
  }
  for (const CheckpointNote& note : checkpoint.notes()) {
    const bool warning = note.level == CheckpointNote::Level::kWarning;
    findings.push_back({warning ? LintFinding::Level::kWarning : LintFinding::Level::kInfo,
                        "metadata", note.where, note.message});
  }
  return findings;
}

nlohmann::ordered_json inspect_document(const Checkpoint& checkpoint, bool with_lint) {
  nlohmann::ordered_json json = to_json(checkpoint);
  json["linted"] = with_lint;
  json["findings"] = nlohmann::ordered_json::array();
  for (const LintFinding& finding : findings_of(checkpoint, with_lint)) {
    json["findings"].push_back({{"level", to_string(finding.level)},
                                {"code", finding.code},
                                {"tensor", finding.tensor},
                                {"message", finding.message}});
  }
  return json;
}

}  // namespace moe4::cli
