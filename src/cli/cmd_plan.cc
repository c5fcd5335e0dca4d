// moe4 plan: which backend would serve which layer on which device, and why not the others. Headers
// or metadata suffice, the device may be absent, and the architecture need not be one that runs.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "cli/commands.h"
#include "cli/op_report.h"
#include "cli/options.h"
#include "cli/plan_document.h"
#include "cli/plan_report.h"
#include "models/description.h"
#include "models/missing_parts.h"

namespace moe4::cli {
namespace {

struct PlanFlags {
  std::string model;
  BackendFlags backend;
  bool json = false;
};

std::string router_text(const ModelConfig& config) {
  const RouterConfig& router = config.router;
  std::string text = printable(config.router_scoring, 40);
  if (router.renormalize) text += ", renormalised";
  if (router.scaling_factor != 1.0f) text += fmt::format(", times {}", router.scaling_factor);
  if (router.num_groups > 1) {
    text += fmt::format(", {} of {} groups", router.topk_groups, router.num_groups);
  }
  if (config.router_has_correction_bias) text += ", correction bias";
  if (config.router_has_logit_bias) text += ", logit bias";
  if (config.router_has_expert_scale) text += ", a scale for each expert";
  if (config.router_logit_cap > 0) text += fmt::format(", capped at {}", config.router_logit_cap);
  if (!config.is_hash_layer.empty()) text += ", by token id in the first layers";
  return text;
}

void plan(const PlanFlags& flags) {
  const SelectorOptions options = selector_options(flags.backend, /*must_run=*/false);
  const auto checkpoint = Checkpoint::open(flags.model, {.headers_only = true});
  const std::vector<PlanGroup> groups = make_plan(*checkpoint, options);
  const Description description = describe(*checkpoint, options.device);
  const std::vector<Refusal>& refused = description.refusals;
  const ModelConfig& config = checkpoint->config();
  const std::string no_run = why_not_run(config);
  if (flags.json) {
    const nlohmann::ordered_json json = plan_document(*checkpoint, options, groups, description);
    fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("{} ({}), {} checkpoint, planned for {}\n{}", config.architecture, config.model_type,
               checkpoint->dialect(), to_string(options.device), plan_text(groups));
    if (groups.empty()) {
      fmt::print("{}\n", kNoExperts);
    } else {
      fmt::print("router: {}\n", router_text(config));
    }
    fmt::print("{}", ops_text(description));
    for (const CheckpointNote& note : checkpoint->notes()) {
      fmt::print("note: {}: {}\n", printable(note.where), printable(note.message, 1000));
    }
    if (!no_run.empty()) fmt::print("run: not possible: {}\n", no_run);
    // An unknown architecture was said.
    for (const Refusal& refusal : refused) {
      if (no_run.empty()) fmt::print("run: refused: {}\n", refusal.message);
    }
  }
  for (const PlanGroup& group : groups) {
    if (group.selection.backend == nullptr) {
      throw Error(group.error_code,
                  fmt::format("{} {}: {}", group.layers.size() == 1 ? "layer" : "layers",
                              layer_ranges(group.layers), group.error));
    }
  }
}

}  // namespace

void add_plan(CLI::App& app) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = app.add_subcommand(
      "plan", "Say which backend serves each layer and why the others do not; reads headers only");
  command->add_option("MODEL", flags->model, "Checkpoint folder")->required();
  add_backend_flags(*command, flags->backend);
  with_env(command->add_flag("--json", flags->json, "One JSON object on stdout"));
  command->callback([flags] { plan(*flags); });
}

}  // namespace moe4::cli
