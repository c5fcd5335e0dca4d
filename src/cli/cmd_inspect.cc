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
#include "cli/inspect_document.h"
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

void inspect(const InspectFlags& flags) {
  const auto checkpoint = Checkpoint::open(flags.model, {.headers_only = !flags.lint});
  if (flags.json) {
    const nlohmann::ordered_json json = inspect_document(*checkpoint, flags.lint);
    fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return;
  }
  const std::vector<LintFinding> findings = findings_of(*checkpoint, flags.lint);
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
