// moe4 inspect: what a checkpoint consists of, from headers alone; --lint reads the scales too and
// lists what looks wrong.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/lint.h"
#include "cli/commands.h"
#include "cli/inventory.h"
#include "cli/options.h"
#include "cli/plan_report.h"
#include "cli/table.h"
#include "models/refusals.h"

namespace moe4::cli {
namespace {

struct InspectFlags {
  std::string model;
  bool lint = false;
  bool json = false;
};

// Layers with the same mixer and the same feed-forward part.
struct LayerGroup {
  std::vector<int64_t> layers;
  std::string attention, feed_forward;
};

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
                  experts.unsupported.empty() ? to_string(experts.scheme) : experts.unsupported);
  if (p.hidden_size != config.hidden_size) text += fmt::format(", latent {}", p.hidden_size);
  if (!experts.error.empty()) text += " (cannot be decoded)";
  if (config.shared_expert_intermediate_size > 0)
    text += fmt::format(" + shared {}", config.shared_expert_intermediate_size);
  return text;
}

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

std::string millions(int64_t n) { return fmt::format("{:.3f}", static_cast<double>(n) * 1e-6); }

void print_text(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  const Inventory inventory = take_inventory(checkpoint);
  fmt::print("{} ({}), {} checkpoint\n", config.architecture, config.model_type,
             checkpoint.dialect());
  fmt::print("hidden {}, layers {}, vocabulary {}, context {}\n", config.hidden_size,
             config.num_layers, config.vocab_size, config.max_position_embeddings);
  fmt::print("parameters {} M, {} M active per token; {} MB, {} MB read per token\n\n",
             millions(inventory.parameters), millions(inventory.active_parameters),
             millions(inventory.bytes), millions(inventory.active_bytes));
  Table layers({"layers", "attention", "feed-forward"});
  for (const LayerGroup& group : group_layers(checkpoint))
    layers.add({layer_ranges(group.layers), group.attention, group.feed_forward});
  Table parts({"component", "formats", "M parameters", "MB", "MB per token"});
  for (const Component& c : inventory.components)
    parts.add(
        {c.name, c.formats, millions(c.parameters), millions(c.bytes), millions(c.active_bytes)});
  fmt::print("{}\n{}", layers.to_string(), parts.to_string());
}

nlohmann::ordered_json to_json(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  const Inventory inventory = take_inventory(checkpoint);
  nlohmann::ordered_json json = {
      {"model", checkpoint.directory().string()},
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

void inspect(const InspectFlags& flags) {
  const auto checkpoint = Checkpoint::open(flags.model, {.headers_only = !flags.lint});
  const std::vector<LintFinding> findings = findings_of(*checkpoint, flags.lint);
  if (flags.json) {
    nlohmann::ordered_json json = to_json(*checkpoint);
    json["linted"] = flags.lint;
    json["findings"] = nlohmann::ordered_json::array();
    for (const LintFinding& finding : findings) {
      json["findings"].push_back({{"level", to_string(finding.level)},
                                  {"code", finding.code},
                                  {"tensor", finding.tensor},
                                  {"message", finding.message}});
    }
    fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return;
  }
  print_text(*checkpoint);
  if (!findings.empty()) fmt::print("\n");
  for (const LintFinding& finding : findings) {
    fmt::print("{} [{}] {}: {}\n", to_string(finding.level), finding.code,
               printable(finding.tensor), printable(finding.message, 1000));
  }
  if (flags.lint && findings.empty()) fmt::print("\nlint: nothing to report\n");
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* command = app.add_subcommand(
      "inspect", "Layers, formats, parameters and bytes per token; reads headers only");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  with_env(command->add_flag("--lint", flags->lint,
                             "Read all scales and report what looks wrong: gate/up global scales "
                             "that differ, subnormal or zero block scales, uncalibrated experts, "
                             "metadata conflicts, missing and unexpected tensors"));
  with_env(command->add_flag("--json", flags->json, "One JSON object on stdout"));
  command->callback([flags] { inspect(*flags); });
}

}  // namespace moe4::cli
